"""A linear layer whose frozen weight lies in 4 bits (QLoRA, Dettmers et al. 2023, equation 5).

    y = x · dequant(W)ᵀ + b            dx = dy · dequant(W)

The weight is decoded in forward, thrown away, and decoded again in backward: between the two only the packed bytes exist. The
matmuls run in `compute_dtype`. Nothing is saved for the backward pass, not even x: a frozen weight needs no gradient.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.formulas.nf4 import NestedScales, Quantized
from loralib.compute.functional import quantized_linear
from loralib.layers.nf4_files import from_file, to_file

TENSORS = ("weight", "absmax", "nested_absmax", "nested_offset")


class Linear4bit(nn.Module):
    """Made from a quantised (d_out, d_in) weight. `weight` holds the packed bytes, as in bitsandbytes' layer.

    source_cls: what the layer was; GPT-2's Conv1D becomes itself again when the weight is decoded for good.
    compute_dtype: of the matmuls; None is the dtype of the weight that was quantised. (bitsandbytes: float32 or the input's.)
    """

    nested_absmax: Tensor | None
    nested_offset: Tensor | None

    def __init__(
        self,
        quantized: Quantized,
        bias: Tensor | None = None,
        compute_dtype: torch.dtype | None = None,
        source_cls: type[nn.Module] = nn.Linear,
    ):
        super().__init__()
        self.source_cls = source_cls
        if len(quantized.shape) != 2:
            raise ValueError(f"a linear layer needs a weight of two dimensions, found {tuple(quantized.shape)}")
        self.out_features, self.in_features = quantized.shape
        self.stored_dtype, self.blocksize, self.quant_type = quantized.dtype, quantized.blocksize, quantized.quant_type
        self.compute_dtype = compute_dtype or quantized.dtype
        for name in TENSORS[1:]:
            self.register_buffer(name, None, persistent=False)  # their keys in a file are those of `nf4_files.py`
        self._hold(quantized)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    absmax: Tensor

    def _hold(self, quantized: Quantized) -> None:
        self.weight = nn.Parameter(quantized.packed, requires_grad=False)
        self.absmax = quantized.absmax
        self.nested_absmax = quantized.nested.absmax if quantized.nested else None
        self.nested_offset = quantized.nested.offset if quantized.nested else None

    @property
    def quantized(self) -> Quantized:
        """The weight as the kernels take it."""
        nested = None
        if self.nested_absmax is not None and self.nested_offset is not None:
            nested = NestedScales(self.nested_absmax, self.nested_offset)
        shape = torch.Size((self.out_features, self.in_features))
        return Quantized(self.weight.data, self.absmax, shape, self.stored_dtype, self.blocksize, self.quant_type, nested)

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        y = quantized_linear(input.to(self.compute_dtype), self.quantized, bias)
        return y.to(input.dtype)

    def _apply(self, fn, recurse=True):
        """Moves, but never casts, the scales: `model.to(bfloat16)` must not round them."""
        exact = {name: getattr(self, name) for name in TENSORS[1:] if getattr(self, name) is not None}
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            setattr(self, name, fn(tensor.view(-1).view(torch.uint8)).view(tensor.dtype).view(tensor.shape))
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= {f"{prefix}weight{key}": tensor for key, tensor in to_file(self.quantized).items() if key}

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        name = f"{prefix}weight"
        weight_tensors = {k.removeprefix(name): t for k, t in state_dict.items() if k == name or k.startswith(f"{name}.")}
        rest = {k: t for k, t in state_dict.items() if k.removeprefix(name) not in weight_tensors}
        known = to_file(self.quantized)
        unexpected_keys += [
            f"{name}{key}" for key in weight_tensors if key not in known and not key.startswith((".nested", ".quant_"))
        ]
        rest[name] = self.weight
        if not weight_tensors:
            missing_keys.append(name)
            return super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        try:
            loaded = from_file(weight_tensors, name)
            if loaded.shape != self.quantized.shape:
                raise ValueError(f"{name} is {tuple(loaded.shape)}, the layer {tuple(self.quantized.shape)}")
            self.stored_dtype, self.blocksize, self.quant_type = loaded.dtype, loaded.blocksize, loaded.quant_type
            self._hold(_moved(loaded, self.weight.device))
        except ValueError as error:
            error_msgs.append(str(error))
        rest[name] = self.weight
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def extra_repr(self) -> str:
        nested = ", double quantised" if self.nested_absmax is not None else ""
        kind = f"{self.quant_type}, blocksize={self.blocksize}{nested}, compute_dtype={self.compute_dtype}"
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {kind}"


def _moved(q: Quantized, device: torch.device) -> Quantized:
    nested = None if q.nested is None else NestedScales(q.nested.absmax.to(device), q.nested.offset.to(device))
    return replace(q, packed=q.packed.to(device), absmax=q.absmax.to(device), nested=nested)
