"""What every launch prepares: strides by name, the numbers of dropout, and checks of its operands."""

import torch
from torch import Tensor

from kernels.triton_kernels.configs import Tiles
from kernels.triton_kernels.philox import threshold


def strides(**matrices: Tensor) -> dict[str, int]:
    """The strides of each matrix under the names that the kernels use: `strides(x=x)` gives `x_row` and `x_col`."""
    return {f"{name}_{axis}": matrix.stride(i) for name, matrix in matrices.items() for i, axis in enumerate(("row", "col"))}


def dropout(p: float) -> dict[str, float | bool]:
    """Dropout as the kernels take it: the threshold as a signed 32-bit word, 1 / (1 - p), and whether there is any."""
    word = threshold(p)
    return {"threshold": word - 2**32 if word >= 2**31 else word, "inverse": 1 / (1 - p), "DROPOUT": p > 0}


def options(tiles: Tiles) -> dict[str, int]:
    """Options of the compiler: warps in a program, and loads that are in flight."""
    return {"num_warps": tiles.warps, "num_stages": tiles.stages}


def contiguous_bias(bias: Tensor | None) -> Tensor | None:
    """The kernels read a bias without a stride."""
    return None if bias is None else bias.contiguous()


def check_shapes(sizes: str, **tensors: Tensor | None) -> None:
    """ValueError unless the tensors fit together: `check_shapes("x M K, weight N K", x=x, weight=weight)`.

    A letter is a size. It must be the same wherever it stands. A tensor that is None fits.
    """
    known: dict[str, tuple[int, str]] = {}
    for entry in sizes.split(","):
        name, *letters = entry.split()
        tensor = tensors[name]
        if tensor is None:
            continue
        if tensor.dim() != len(letters):
            raise ValueError(f"{name} {tuple(tensor.shape)}: expected the shape ({', '.join(letters)})")
        for letter, size in zip(letters, tensor.shape, strict=True):
            expected, source = known.setdefault(letter, (size, name))
            if size != expected:
                raise ValueError(
                    f"{name} {tuple(tensor.shape)}: expected the shape ({', '.join(letters)}) with {letter} = {expected}, "
                    f"as in {source} {tuple(tensors[source].shape)}"  # pyright: ignore[reportOptionalMemberAccess]
                )


def check_down_projection(S: Tensor | None, lora_B: Tensor | None) -> None:
    """ValueError unless S (M, R) has at least r columns, contiguous ones, and comes together with B (N, r)."""
    if (S is None) != (lora_B is None):
        raise ValueError("S and lora_B belong together: one was given without the other")
    if S is None or lora_B is None:
        return
    if S.shape[1] < lora_B.shape[1]:
        raise ValueError(f"S {tuple(S.shape)} and lora_B {tuple(lora_B.shape)}: expected at least {lora_B.shape[1]} columns of S")
    if S.stride(1) != 1:
        raise ValueError(f"S has strides {S.stride()}: expected contiguous rows, as `shrink` gives them")


def check_dtypes(first: Tensor, *others: Tensor | None) -> None:
    """ValueError unless all have the dtype and the device of the first: a kernel would read wrong bytes, or fail late."""
    for other in others:
        if other is not None and (other.dtype, other.device) != (first.dtype, first.device):
            raise ValueError(
                f"operands of {first.dtype} on {first.device} and of {other.dtype} on {other.device}: "
                "expected one dtype and one device; cast or move them first"
            )


def scratch_memory(size: int, alignment: int, stream: int | None) -> Tensor:
    """Where a kernel on a GPU puts its tensor descriptors: memory of the current device, which ops.py sets."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def tile_count(M: int, N: int, tiles: Tiles) -> int:
    """Tiles of a matrix (M, N)."""
    return -(-M // tiles.M) * -(-N // tiles.N)
