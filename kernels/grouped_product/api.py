"""The linear layers of many experts at once: rows sorted by group, each group with a matrix of its own."""

from typing import Literal

import torch
from torch import Tensor

from kernels.dispatch import require, require_floating
from kernels.grouped_product import reference

Implementation = Literal["auto", "reference", "grouped_mm"]


def grouped_product(x: Tensor, weight: Tensor, ends: Tensor, *, impl: Implementation = "auto") -> Tensor:
    """Multiply each group of rows by its matrix: y_i = W_e x_i for ends[e - 1] <= i < ends[e] (ends[-1] is 0).

    No row is left out and no group has a capacity; a group may be empty.

    Args:
        x: rows in the order of their groups, [N, C].
        weight: a matrix for each group, [E, D, C].
        ends: where each group ends, ascending to N, int32 or int64 [E]; "grouped_mm" does not look at the values.
        impl: "auto" ("grouped_mm" for bf16 on a GPU from compute capability 8.0, "reference" elsewhere), "reference"
            (a loop over the groups) or "grouped_mm" (torch's kernel, one launch for all groups).

    Returns:
        [N, D] in the dtype of `x`, or of autocast where it is on.

    Raises:
        ValueError: a shape or dtype out of range, by name.
        RuntimeError: `impl="grouped_mm"` in fp64, or with a C or D whose rows are no multiple of 16 bytes.
    """
    name = "grouped_product"
    require(
        impl in ("auto", "reference", "grouped_mm"), name, "impl", "'auto', 'reference' or 'grouped_mm'", repr(impl)
    )
    require_floating(name, x=x, weight=weight)
    require(x.dim() == 2, name, "x", "[N, C]", list(x.shape))
    fits = weight.dim() == 3 and weight.shape[0] > 0 and weight.shape[2] == x.shape[1]
    require(fits, name, "weight", f"[E, D, C] with C = {x.shape[1]} and E at least 1", list(weight.shape))
    require(list(ends.shape) == [weight.shape[0]], name, "ends", f"[E] = {[weight.shape[0]]}", list(ends.shape))
    require(ends.dtype in (torch.int32, torch.int64), name, "ends", "int32 or int64", ends.dtype)
    require(ends.device == x.device, name, "ends", f"on the device of x, {x.device}", ends.device)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        x, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, weight))
    require(weight.dtype == x.dtype, name, "weight", f"of the dtype of x, {x.dtype}", weight.dtype)
    if impl == "grouped_mm" and not _aligned(x, weight):
        raise RuntimeError(
            f"{name}: impl='grouped_mm' needs fp32, bf16 or fp16 and rows of a multiple of 16 bytes, got {x.dtype} "
            f"with C = {weight.shape[2]} and D = {weight.shape[1]}"
        )
    grouped = impl == "grouped_mm" or (impl == "auto" and _pays(x) and _aligned(x, weight))
    # a meta tensor has only a shape, which is the reference's
    if not grouped or x.is_meta or x.numel() == 0:
        return reference.grouped_product(x, weight, ends)
    from kernels.grouped_product import grouped_mm

    return grouped_mm.grouped_product(x, weight, ends)


def _pays(x: Tensor) -> bool:
    return x.is_cuda and x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (8, 0)


def _aligned(x: Tensor, weight: Tensor) -> bool:
    lengths = (size * weight.element_size() for size in weight.shape[1:])
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and all(length % 16 == 0 for length in lengths)
