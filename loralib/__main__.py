"""Commands on models and adapters.

python -m loralib merge MODEL ADAPTER --out DIR    a plain transformers folder with the adapter merged in
python -m loralib quantize MODEL --out DIR         a folder with 4-bit weights, as bitsandbytes and transformers read it
"""

import sys

import transformers
import tyro

from loralib.checkpoint import AdapterFileError
from loralib.merge_command import Merge, merge
from loralib.quantize_command import Quantize, quantize

COMMANDS = {"merge": (Merge, merge), "quantize": (Quantize, quantize)}


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        sys.exit(f"usage: {__doc__}")
    if name not in COMMANDS:
        sys.exit(f"error: expected a command, one of {', '.join(COMMANDS)}\n\n{__doc__}")
    settings, command = COMMANDS[name]
    try:
        command(tyro.cli(settings, prog=f"python -m loralib {name}", args=sys.argv[2:]))
    except (AdapterFileError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


main()
