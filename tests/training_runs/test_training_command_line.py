"""Every command: its help and its mistakes come before the heavy imports, and every option says what it is for."""

import ast
import json
from itertools import pairwise
from pathlib import Path

import pytest
from command import run_fresh

from distill.losses.loss_specs import LOGITS
from distill.losses.losses import LOSSES
from multitask.balancing.gradients import GRADIENT_METHODS
from multitask.balancing.weightings import GRADIENT_NAMES
from training.commands.command_line import Command, parse
from training.commands.compare_command import CompareSettings
from training.commands.gap_command import METHODS
from training.runs.settings import TrainSettings
from training.studies.gap import ENDS, ROWS

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "training": ("", "generate", "evaluate", "report", "compare", "gap", "benchmark", "conditions", "pretrain"),
    "multitask": ("", "compare", "transfer", "speed"),
    "distill": ("", "compare", "sweep", "tasks"),
    "adapters": ("", "fuse"),
    "loralib": ("", "merge", "quantize"),
}
MISTAKES = {
    "training --task sst3": "task 'sst3' is unknown; there are topic",
    "training --steps x": "invalid literal for int",
    "training --frobnicate 1": "Unrecognized options: --frobnicate",
    "training --method lora --placement houlsby": "placement: method 'lora' does not use that",
    "training frobnicate": "no command 'frobnicate'; there are generate, evaluate",
    "training compare --task sst3": "task 'sst3' is unknown",
    "multitask --tasks sentiment,frob": "task 'frob' is unknown",
    "distill --losses kd:X=1": "kd takes T=NUMBER",
    "adapters frobnicate": "no command 'frobnicate'; there are fuse",
    "loralib": "expected a command, one of merge, quantize",
}
RUN_ALL = """
import contextlib, io, json, runpy, sys
found = {}
for line in %r:
    sys.argv = line.split()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            runpy.run_module(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            found[line] = [end.code if isinstance(end.code, int) else 1, out.getvalue() + str(end.code)]
heavy = [name for name in ("torch", "transformers", "datasets", "accelerate", "matplotlib", "numpy") if name in sys.modules]
print(json.dumps([found, heavy]))
"""


@pytest.fixture(scope="module")
def answers() -> tuple[dict, list]:
    """What each command answers to `--help` and to a mistake, all in one process, and the heavy modules that it imported."""
    helped = [f"{package} {name} --help" for package, names in COMMANDS.items() for name in names]
    done = run_fresh(RUN_ALL % [*helped, *MISTAKES])
    assert done.returncode == 0, done.stderr
    result, heavy = json.loads(done.stdout.splitlines()[-1])
    return result, heavy


def test_nothing_heavy_is_imported_before_the_options_are_read(answers):
    assert answers[1] == []


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named(answers, line):
    status, text = answers[0][line]
    assert status != 0 and MISTAKES[line] in " ".join(text.split())


def test_help_shows_one_example_per_line(answers):
    for package in COMMANDS:
        status, text = answers[0][f"{package}  --help"]
        assert status == 0
        lines = [line for line in text.splitlines() if f"python -m {package} " in line and "usage" not in line]
        assert len(lines) >= len(COMMANDS[package]) - 1 and all(line.startswith("python -m") for line in lines)


def help_of(settings: type, *words: str, capsys) -> str:
    with pytest.raises(SystemExit):
        parse(Command(settings, print, methods=("lora",) if settings is CompareSettings else ()), "x", [*words, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "shown", "hidden"),
    [
        ("lora", ("--use-dora", "--lora-alpha", "--target-modules"), ("--placement", "--num-virtual-tokens", "--members")),
        ("qlora", ("--lora-alpha",), ("--use-dora", "--feedforward-modules")),
        ("ia3", ("--feedforward-modules", "--target-modules"), ("--lora-alpha",)),
        ("prompt", ("--num-virtual-tokens",), ("--prefix-projection", "--lora-alpha")),
        ("", ("--steps", "--method"), ("--lora-alpha", "--placement", "--prefix-projection", "--members")),
    ],
)
def test_options_of_a_method_appear_under_that_method_only(method, shown, hidden, capsys):
    text = help_of(TrainSettings, *(["--method", method] if method else []), capsys=capsys)
    assert all(option in text for option in shown) and not any(option in text for option in hidden)


def test_the_help_of_a_comparison_shows_its_own_options_first(capsys):
    text = help_of(CompareSettings, capsys=capsys)
    assert text.index("--ranks") < text.index("task options") < text.index("lora options")
    assert "--placement" not in text


def test_the_flat_form_keeps_working():
    words = ["--method", "lora", "--r", "4", "--use-dora", "--task", "sst2", "--learning-rate", "1e-3", "--trackers"]
    assert parse(Command(TrainSettings, print), "x", [*words, ""]) == TrainSettings(
        method="lora", r=4, use_dora=True, task="sst2", learning_rate=1e-3, trackers=""
    )
    settings = parse(Command(CompareSettings, print), "x", ["--ranks", "2", "4", "--steps", "7", "--seeds", "2"])
    assert settings == CompareSettings(TrainSettings(steps=7), ranks=(2, 4), seeds=2)


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("*/*/*_command.py"), *ROOT.glob("*/*/option_groups.py"), ROOT / "adapters" / "fuse_command.py"]),
    ids=lambda p: p.stem,
)
def test_every_option_says_what_it_is_for(path):
    for kind in (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)):
        for line, following in pairwise([*kind.body, None]):
            if isinstance(line, ast.AnnAssign) and line.target.id not in ("run", "used_by"):
                assert isinstance(following, ast.Expr), f"{path.name}: {kind.name}.{line.target.id} has no text below it"


def test_names_that_need_no_torch_are_those_of_the_registries():
    assert list(LOSSES) == LOGITS
    assert tuple(GRADIENT_METHODS) == GRADIENT_NAMES
    assert tuple(name for name in ROWS if name not in ENDS) == METHODS
