"""The type checker that pytest applies to every function of the packages: beartype, with int accepted where float is asked.

Where beartype is not installed (the rented GPU machine), shapes and types are not checked; `conftest.py` says so in the header.
"""

from importlib.util import find_spec

if find_spec("beartype") is not None:
    from beartype import BeartypeConf, beartype

    check = beartype(conf=BeartypeConf(is_pep484_tower=True))
else:

    def check(function):
        """Leaves the function as it is."""
        return function
