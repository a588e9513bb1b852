"""With this folder on PYTHONPATH, Python behaves as if some packages were not installed, in child processes too.

It hides what a rented GPU machine lacks; the variable NOT_INSTALLED adds names, with spaces between them. The packages are hidden
from imports, from `find_spec`, by which libraries ask what is there, and from the metadata, by which pytest finds its plugins. A
finder that raised ModuleNotFoundError would break those questions, which on such a machine are answered with None.
"""

import os
import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import MetadataPathFinder

MODULES = "tyro datasets bitsandbytes beartype rouge_score nltk sacrebleu tensorboard scipy sklearn pandas pyarrow "
MODULES += "pytest_timeout xdist execnet liger_kernel jupytext"
HIDDEN = {*MODULES.split(), *os.environ.get("NOT_INSTALLED", "").split()}
OTHER_NAMES = {"scikit_learn": "sklearn", "pytest_xdist": "xdist"}
"""distribution → module, where they differ by more than - and _"""


class BareFinder(PathFinder):
    """The finder of ordinary packages, without the hidden ones."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in HIDDEN else PathFinder.find_spec(fullname, path, target)

    @staticmethod
    def find_distributions(*context):
        for result in MetadataPathFinder.find_distributions(*context):
            name = re.sub(r"[-_.]+", "_", result.metadata["Name"] or "").lower()
            if OTHER_NAMES.get(name, name) not in HIDDEN:
                yield result


BareFinder.__name__ = "PathFinder"  # jaxtyping looks for the finder of this name, to install its own before it
sys.meta_path = [BareFinder if finder is PathFinder else finder for finder in sys.meta_path]
