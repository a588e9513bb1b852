"""The type checker that pytest puts under every function of the packages: beartype, with int accepted where float is asked."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
