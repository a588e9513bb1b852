"""`python -m training generate --adapter FOLDER`: continue prompts with a trained model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from training.runs.setting_checks import at_least

if TYPE_CHECKING:
    from training.evaluation.generation import Sample


@dataclass(frozen=True)
class GenerateSettings:
    """Texts from what a run trained: `runs/NAME/adapter`, or `user/repo` on the Hub."""

    adapter: str
    """folder with the trained weights, or user/repo on the Hub"""
    prompt: tuple[str, ...] = ()
    """prompts of your own; none: the first prompts of the task's evaluation split"""
    count: int = 3
    """how many prompts of the split"""
    task: str | None = None
    """None: the task that the folder was trained for"""
    model: str | None = None
    """None: the base that the folder names"""
    data_dir: str | None = None
    """None: the small world or the Hub"""
    decoding: Literal["greedy", "lora_paper"] = "greedy"
    """lora_paper: 10 beams, length penalty 0.8, no 4-gram twice"""
    max_new_tokens: int = 128
    """at most so many tokens are generated"""

    def __post_init__(self):
        at_least({"count": 1, "max_new_tokens": 1}, self)


def generate(settings: GenerateSettings) -> "list[Sample]":
    from training.commands.evaluate_command import load_any
    from training.data.data import evaluation_split, load_task
    from training.evaluation.generation import generate_samples, references_by_prompt

    trained = load_any(settings.adapter, settings.task, settings.model)
    spec = trained.spec
    if not spec.is_language_modelling:
        raise ValueError(f"{settings.adapter} was trained for {spec.name} ({spec.kind}): it answers with no text; use evaluate")
    prompts: list = [(p, []) for p in settings.prompt]
    if not prompts:
        if spec.kind == "text":
            raise ValueError("a model of plain text has no prompts of its own: give --prompt TEXT")
        data = load_task(spec, settings.data_dir)
        prompts = references_by_prompt(data[evaluation_split(data, spec, settings.data_dir)], spec)[: settings.count]
    console = Console(soft_wrap=True, highlight=False)
    console.print(trained.report)
    model, tokenizer = trained.base.model, trained.base.tokenizer
    options = {"decoding": settings.decoding, "max_new_tokens": settings.max_new_tokens}
    samples = generate_samples(model, tokenizer, prompts, spec, **options)
    for sample in samples:
        console.print(f"\nprompt     {sample.prompt}", markup=False)
        console.print(f"generated  {sample.text}", markup=False)
        for reference in sample.references[:1]:
            console.print(f"reference  {reference}", markup=False)
    return samples
