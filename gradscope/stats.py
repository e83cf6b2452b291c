"""Statistics of tensors: pure functions, tensor in, tensor out, nothing leaves the device.

All of them take tensors of any real floating dtype, and return float32 on the tensor's device, unless said
otherwise. None keeps its input, draws a random number, synchronises with the device or leaves a trace in autograd.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 256
"""Elements that one accumulator sums on the CPU. `torch.linalg.vector_norm` there adds in float32 along the whole
tensor and is off by 1.5e-5 for a million elements. Norms of rows of 256, combined, are exact to 1e-7, and for a large
tensor they cost the same."""

SUBSAMPLE = 2**18
"""Elements from which moments and fractions are estimated. Were they independent, the standard error of a mean would
be 0.2 % of the standard deviation; and the temporaries stay in the cache."""


@torch.no_grad()
def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each of `tensors`: float32[len(tensors)], relative error below 1e-6.

    The tensors may differ in shape, dtype (complex too), layout (sparse COO too) and device; the result is on the
    first one's. An empty tensor has norm 0; an empty sequence gives float32[0] on the CPU. NaN and infinity
    survive; a norm above 3.4e38 is inf.
    """
    if not tensors:
        return torch.zeros(0)
    compact = [_compact(t) for t in tensors]
    halves = iter(_foreach_norm([t for t in compact if t.dtype in _HALF], torch.float32))
    others = iter(_foreach_norm([t for t in compact if t.dtype not in _HALF], None))
    norms = [next(halves if t.dtype in _HALF else others) for t in compact]
    if len({n.device for n in norms}) > 1:
        norms = [n.to(tensors[0].device) for n in norms]
    return torch.stack(norms).float()


@torch.no_grad()
def sample(tensor: Tensor, size: int = 1024) -> Tensor:
    """Return about `size` elements of `tensor`, evenly spread: a view where the tensor is contiguous.

    The tensor itself where it has at most `size` elements or little more. The stride is odd, so that it does not
    walk along one column of a matrix whose width is a power of two. The same elements each time.
    """
    stride = tensor.numel() // size
    return tensor if stride <= 1 else tensor.reshape(-1)[:: stride | 1]


def subsample(x: Tensor, limit: int = SUBSAMPLE) -> Tensor:
    """Return about `limit` elements of `x`, spread over the batch: `x` itself where it is smaller.

    A view, but for a tensor of few samples that is not contiguous, which is copied.
    """
    step = -(-x.numel() // limit)
    if step <= 1:
        return x
    if x.shape[0] >= 2 * step:
        return x[::step]
    return x.reshape(-1)[:: step | 1]


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population variance of the elements of `x`: float32[] or float64[] each, NaN where `x` is empty.

    Two passes in float32 (float64 stays): one pass over squares loses everything for a mean far from zero.
    """
    x = x if x.dtype == torch.float64 else x.float()
    mean = x.mean()
    return mean, (x - mean).square_().mean()


def positive_fraction(x: Tensor) -> Tensor:
    """Return the share of elements above zero of an `x` that has none below: float32[], NaN where `x` is empty."""
    # On the CPU the mean of the sign is ten times as fast as a comparison and a count.
    return x.sign().mean(dtype=torch.float32)


def saturated_fraction(x: Tensor, limits: tuple[float, float], margin: float = 0.01) -> Tensor:
    """Return the share of elements of `x` within `margin` of a limit: float32[], NaN where `x` is empty.

    `margin` is a share of the span between the limits, so that a sigmoid σ(2x) and the tanh(x) = 2σ(2x) − 1 made
    of it saturate at the same x: at 1 % their slope is 4 % of the steepest.
    """
    low, high = limits
    distance_from_centre = (x.float() - (low + high) / 2).abs_()
    return (distance_from_centre >= (0.5 - margin) * (high - low)).float().mean()


def unit_peaks(x: Tensor, unit_dimension: int) -> Tensor:
    """Return the largest value of each unit over all other dimensions of `x`: x.dtype[units], never a view of `x`.

    A unit that fires for no element of the batch has a peak of at most 0; NaN survives. A tensor of one dimension
    or none holds one unit, whose samples are its elements. `x` must not be empty.
    """
    if x.dim() <= 1:
        return x.amax().reshape(1)
    return x.amax([d for d in range(x.dim()) if d != unit_dimension % x.dim()])


def _compact(t: Tensor) -> Tensor:
    """On the CPU, a tensor of at most a few ROWs with the same norm as `t`."""
    if t.is_sparse:
        t = t.coalesce().values()
    while t.numel() > 4 * ROW and t.device.type == "cpu":  # accelerators reduce in a tree, which is exact enough
        flat = t.view(-1) if t.is_contiguous() else _flat(t)
        rest = flat.numel() % ROW
        rows = flat[:-rest] if rest else flat
        norms = torch.linalg.vector_norm(rows.view(-1, ROW), dim=1, dtype=torch.float32 if t.dtype in _HALF else None)
        t = torch.cat((norms, flat[-rest:].abs().to(norms.dtype))) if rest else norms
    return t


def _foreach_norm(tensors: list[Tensor], accumulate: torch.dtype | None) -> Sequence[Tensor]:
    return torch._foreach_norm(tensors, 2, accumulate) if tensors else ()


_HALF = (torch.float16, torch.bfloat16)
"""Accumulated in float32, for their squares overflow at 256 or lose digits. Other dtypes refuse a narrower one."""


def _flat(t: Tensor) -> Tensor:
    """The elements of `t` in the order of memory: a view of any dense tensor, channels-last too."""
    by_stride = sorted(range(t.dim()), key=t.stride, reverse=True)
    return t.permute(by_stride).reshape(-1)
