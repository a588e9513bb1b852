"""Commands on models and adapters.

python -m loralib merge MODEL ADAPTER --out DIR    a plain transformers folder with the adapter merged in
python -m loralib quantize MODEL --out DIR         a folder with 4-bit weights, as bitsandbytes and transformers read it
"""

from loralib.commands.merge_command import Merge, merge
from loralib.commands.quantize_command import Quantize, quantize
from training.commands.command_line import Command, run_command

run_command("loralib", __doc__ or "", {"merge": Command(Merge, merge), "quantize": Command(Quantize, quantize)})
