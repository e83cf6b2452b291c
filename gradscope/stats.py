"""Statistics of tensors: pure functions, tensor in, tensor out, nothing leaves the device.

All of them take tensors of any real floating dtype unless said otherwise, and return float32 on the tensor's
device. None keeps a reference to its input, draws a random number or synchronises with the device.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 256
"""Elements that one accumulator sums on the CPU. `torch.linalg.vector_norm` there adds in float32 along the whole
tensor and is off by 1.5e-5 for a million elements; norms of rows of 256, combined, are exact to 1e-7 at equal cost."""

SUBSAMPLE = 2**18
"""Elements from which moments and fractions are estimated: their standard error is then under 0.2 % of the
standard deviation, and the temporaries stay in the cache."""


def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each of `tensors`: float32[len(tensors)], relative error below 1e-6.

    The tensors may differ in shape, dtype (complex too), layout (sparse COO too) and device; the result is on the
    first one's. An empty tensor has norm 0; an empty sequence gives float32[0] on the CPU. NaN and infinity
    survive; a norm above 3.4e38 is inf.
    """
    if not tensors:
        return torch.zeros(0)
    norms: list[Tensor] = [tensors[0]] * len(tensors)
    groups: defaultdict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    compact = [_compact(t.detach()) for t in tensors]
    for i, t in enumerate(compact):
        groups[t.device, t.dtype].append(i)
    for (_, dtype), indices in groups.items():
        # Half precision would overflow at 65,504; complex and float64 refuse a narrower dtype.
        accumulate = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
        for i, norm in zip(indices, torch._foreach_norm([compact[i] for i in indices], 2, accumulate), strict=True):
            norms[i] = norm
    return torch.stack([n.to(tensors[0].device, torch.float32) for n in norms])


def sample(tensor: Tensor, size: int = 1024) -> Tensor:
    """Return about `size` elements of `tensor`, evenly spread: a view where the tensor is contiguous.

    The whole tensor, flattened, where it has at most `size` elements. The stride is odd, so that it does not walk
    along one column of a matrix whose width is a power of two. The same elements each time.
    """
    flat = tensor.detach().reshape(-1)
    stride = flat.numel() // size
    return flat if stride <= 1 else flat[:: stride | 1]


def subsample(x: Tensor, limit: int = SUBSAMPLE) -> Tensor:
    """Return about `limit` elements of `x` as a view that spreads over the batch: `x` itself where it is smaller."""
    step = -(-x.numel() // limit)
    if step <= 1:
        return x
    if x.shape[0] >= 2 * step:
        return x[::step]
    return x.reshape(-1)[:: step | 1]


def mean_and_variance(x: Tensor) -> Tensor:
    """Return mean and population variance of the elements of `x`: float32[2], NaN where `x` is empty.

    Two passes in float32 (float64 stays): one pass over squares loses everything for a mean far from zero.
    """
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    mean = x.mean()
    return torch.stack((mean, (x - mean).square_().mean())).float()


def zero_fraction(x: Tensor) -> Tensor:
    """Return the share of elements of `x` that are exactly zero: float32[], NaN where `x` is empty."""
    # The mean of |sign| is ten times as fast on the CPU as a comparison and a count.
    return 1 - x.detach().float().sign().abs_().mean()


def saturated_fraction(x: Tensor, limits: tuple[float, float], margin: float = 0.01) -> Tensor:
    """Return the share of elements of `x` within `margin` of a limit: float32[], NaN where `x` is empty.

    `margin` is a share of the span between the limits, so that a sigmoid σ(2x) and the tanh(x) = 2σ(2x) − 1 made
    of it saturate at the same x: at 1 % their slope is 4 % of the steepest.
    """
    low, high = limits
    distance_from_centre = (x.detach().float() - (low + high) / 2).abs_()
    return (distance_from_centre >= (0.5 - margin) * (high - low)).float().mean()


def unit_peaks(x: Tensor, unit_dimension: int) -> Tensor:
    """Return the largest value of each unit over all other dimensions of `x`: x.dtype[units].

    A unit that fires for no element of the batch has a peak of at most 0; NaN survives. For a tensor without
    dimensions the one element is the unit. An empty batch gives −inf: nothing fired.
    """
    x = x.detach()
    if x.dim() == 0:
        return x.reshape(1)
    others = [d for d in range(x.dim()) if d != unit_dimension % x.dim()]
    if x.numel() == 0:
        return torch.full((x.shape[unit_dimension],), -torch.inf, dtype=x.dtype, device=x.device)
    return x.amax(others) if others else x


def counts(masks: Sequence[Tensor]) -> Tensor:
    """Return the number of true elements of each of `masks` (bool, one device): float32[len(masks)], exact to 2^24."""
    if not masks:
        return torch.zeros(0)
    return torch.stack(list(torch._foreach_norm([m.float() for m in masks], 1)))


def _compact(t: Tensor) -> Tensor:
    """A tensor of at most a few ROWs with the same norm as `t`."""
    if t.is_sparse:
        t = t.coalesce().values()
    if t.device.type != "cpu":
        return t  # accelerators reduce in a tree, which is exact enough
    while t.numel() > 4 * ROW:
        flat = _flat(t)
        whole = flat.numel() // ROW * ROW
        accumulate = torch.float32 if t.dtype in (torch.float16, torch.bfloat16) else None
        rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1, dtype=accumulate)
        t = torch.cat((rows, flat[whole:].abs().to(rows.dtype))) if whole < flat.numel() else rows
    return t


def _flat(t: Tensor) -> Tensor:
    """The elements of `t` in the order of memory: a view of any dense tensor, channels-last too."""
    by_stride = sorted(range(t.dim()), key=t.stride, reverse=True)
    return t.permute(by_stride).reshape(-1)
