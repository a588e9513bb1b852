"""Commands of adapters.

python -m adapters fuse --tasks sentiment,nli,qa                       on the small world
python -m adapters fuse --tasks sst2,mnli,squad --model roberta-base   from the Hub, or with --data FOLDER from disk
"""

from adapters.fuse_command import FuseSettings, fuse
from training.commands.command_line import Command, run_command

run_command("adapters", __doc__ or "", {"fuse": Command(FuseSettings, fuse, methods=("bottleneck", "lora"))})
