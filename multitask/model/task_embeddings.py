"""Tell a shared backbone which task a row is for: by a vector added to its input, or by the scale and shift of its norms.

    input        e(token) + t_k                          K × d numbers
    layer_norm   norm(h) ⊙ (1 + γ_k) + β_k               2 × K × d for each norm; only here the same states can part by task

Both start at zero, so a new model is the backbone (conditional norms: Pilault et al. 2021, section 2.2; Perez et al. 2018).
"""

from functools import partial

import torch
from torch import Tensor, nn

KINDS = ("input", "layer_norm")


class TaskEmbeddings(nn.Module):
    """The tables, and the hooks on `backbone` that use them. ValueError for an unknown kind or a backbone without norms."""

    def __init__(self, backbone: nn.Module, count: int, kind: str = "input"):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"task embedding {kind!r} is unknown; there are {', '.join(KINDS)}")
        self.kind, self.rows = kind, None
        _refuse_other_layouts(backbone, self._read_by(backbone))
        if kind == "input":
            words = backbone.get_input_embeddings()  # pyright: ignore[reportCallIssue]
            self.table = nn.Parameter(torch.zeros(count, words.embedding_dim))
            words.register_forward_hook(self._add)
            return
        norms = self._read_by(backbone)
        if not norms:
            raise ValueError(f"{type(backbone).__name__} has no LayerNorm or RMSNorm that could depend on the task")
        widths = [len(next(norm.parameters())) for norm in norms]
        self.scale, self.shift = (nn.ParameterList(torch.zeros(count, d) for d in widths) for _ in range(2))
        for i, norm in enumerate(norms):
            norm.register_forward_hook(partial(self._condition, i))

    def _read_by(self, backbone: nn.Module) -> list[nn.Module]:
        """The modules whose output depends on the task."""
        if self.kind == "input":
            return [backbone.get_input_embeddings()]  # pyright: ignore[reportCallIssue]
        return [m for m in backbone.modules() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))]

    def choose(self, task_ids: Tensor | None) -> None:
        """The tasks (B,) of the rows of the next pass. They stay until the next choice: a backward may run a layer again."""
        self.rows = task_ids

    def _add(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output if self.rows is None else output + self.table[self.rows][:, None].to(output.dtype)

    def _condition(self, i: int, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        if self.rows is None:
            return output
        scale, shift = (table[i][self.rows] for table in (self.scale, self.shift))
        while scale.dim() < output.dim():
            scale, shift = scale.unsqueeze(1), shift.unsqueeze(1)
        return output * (1 + scale.to(output.dtype)) + shift.to(output.dtype)


@torch.no_grad()
def _refuse_other_layouts(backbone: nn.Module, modules: list[nn.Module]) -> None:
    """ValueError where a module sees its rows in another dimension than the first (XLNet: time first), found by one pass."""
    if not hasattr(backbone, "config"):
        return  # no model of transformers, and called in its own way
    rows, first = 2, set()
    note = lambda module, inputs, output: first.add(len(output))  # noqa: E731
    hooks, modes = [m.register_forward_hook(note) for m in modules], [(m, m.training) for m in backbone.modules()]
    try:
        ids = torch.ones(rows, 3, dtype=torch.long, device=next(backbone.parameters()).device)
        backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    if first - {rows}:
        raise ValueError(
            f"{type(backbone).__name__}: its states do not have the rows of a batch in their first dimension, so a vector for "
            "each row would go to the wrong places: use a model without task embeddings, or another backbone"
        )
