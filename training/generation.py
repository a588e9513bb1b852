"""Text from a trained decoder: greedy continuations of a task's prompts, beside the references."""

from dataclasses import dataclass

import torch

from training.data import PROMPT_END
from training.tasks import TaskSpec


@dataclass(frozen=True)
class Sample:
    prompt: str
    text: str
    reference: str


@torch.no_grad()
def generate_samples(model, tokenizer, rows, spec: TaskSpec, count: int, max_new_tokens: int = 60) -> list[Sample]:
    """Continue the first `count` different prompts of `rows` greedily, each until its end of text."""
    model.eval()
    first: dict[str, str] = {}
    for prompt, reference in zip(rows[spec.inputs[0]], rows[spec.target], strict=True):
        first.setdefault(prompt, reference)
    samples = []
    for prompt, reference in list(first.items())[:count]:
        ids = tokenizer(prompt + PROMPT_END, return_tensors="pt")["input_ids"].to(model.device)
        room = min(max_new_tokens, tokenizer.model_max_length - ids.shape[1])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=room, pad_token_id=tokenizer.pad_token_id
        )
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        samples.append(Sample(prompt, text.strip(), reference))
    return samples
