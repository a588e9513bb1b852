"""Commands of adapters.

python -m adapters fuse --tasks sentiment,nli,qa                      on the small world
python -m adapters fuse --tasks sst2,mnli,squad --model roberta-base   from the Hub, or with --data FOLDER from disk
"""

import sys

import datasets
import transformers
import tyro

from adapters.fuse_command import FuseSettings, fuse
from training.interrupt import plain_errors


def main() -> None:
    transformers.utils.logging.set_verbosity_error()  # its notices about new heads are told by our own tables
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name != "fuse":
        print(__doc__)
        sys.exit(0 if name in ("", "-h", "--help") else f"error: no command {name!r}; there is fuse")
    with plain_errors():
        fuse(tyro.cli(FuseSettings, prog="python -m adapters fuse", args=sys.argv[2:]))


main()
