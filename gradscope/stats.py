"""Statistics of tensors: pure functions, tensor in, tensor out, nothing leaves the device.

All of them take tensors of any real floating dtype, and return float32 on the tensor's device, unless said
otherwise. None keeps its input, draws a random number, synchronises with the device or leaves a trace in autograd.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

DIRECT = 2**12
"""Elements up to which one accumulator will do on the CPU. It adds in float32 along the whole tensor: of 2^12 equal
elements, as clipping by value makes them, the norm is off by up to 4e-6, of 2^20 by 1e-4."""

ROW = 2**10
"""Elements that one accumulator sums in a larger tensor. Norms of such rows, combined, are exact to 1e-7, of equal
elements to 5e-6, and cost next to no more."""


BLOCK = 8
"""Elements next to each other that a sample takes at each of its places: half of what memory gives at once."""

_CPU = torch.device("cpu")

_norm: Callable[..., Tensor] = torch.linalg.vector_norm  # torch has no types for it


def lie_on_one_accelerator(tensors: Sequence[Tensor]) -> bool:
    """Say whether it is the number of kernels that costs to look at `tensors`; on the CPU it is the places in memory.

    False of none, and of some that lie on several devices.
    """
    return len({t.device for t in tensors}) == 1 and is_accelerator(tensors[0].device)


def is_accelerator(device: torch.device) -> bool:
    """Say whether `device` is any but the CPU."""
    return device != _CPU


@torch.no_grad()
def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each of `tensors`: float32[len(tensors)], relative error below 1e-6.

    Of thousands of elements that are all but equal it is below 1e-5, for there rounding adds up. The tensors may
    differ in shape, dtype (complex too), layout (sparse COO too) and device; the result is on the first one's. An empty
    tensor has norm 0; an empty sequence gives float32[0] on the CPU. NaN and infinity survive; a norm above 1.8e19 is
    inf, for its square is none that float32 holds.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.float32, device="cpu")
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    devices = {t.device for t in dense}
    if devices == {_CPU}:
        return _norms_on_cpu(dense)
    halves = iter(_foreach_norm([t for t in dense if t.dtype in _HALF], torch.float32))
    others = iter(_foreach_norm([t for t in dense if t.dtype not in _HALF], None))
    norms = [next(halves if t.dtype in _HALF else others) for t in dense]
    return torch.stack([n.to(dense[0].device) for n in norms] if len(devices) > 1 else norms).float()


@torch.no_grad()
def rough_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the L2 norm of each of `tensors`, a number each, in as few calls as there are kinds of dtype.

    On the CPU off by 1e-5 at 2^16 elements that are all equal; float32[], or float64[] of such tensors.
    """
    if all(t.dtype is torch.float32 for t in tensors):
        return list(_foreach_norm(list(tensors), None))
    return [*l2_norms(tensors).unbind()]


def row_norms(x: Tensor) -> Tensor:
    """Return the L2 norm of each row of `x`, of shape (n, m): float32[n], as exact as `l2_norms`."""
    if x.shape[1] > DIRECT:
        return l2_norms(x.unbind())
    return _norm(x, dim=1, dtype=torch.float32 if x.dtype in _HALF else None).float()


def sample(tensor: Tensor, size: int, block: int = BLOCK) -> Tensor:
    """Return about `size` elements of `tensor`, evenly spread, or all where there are few.

    One or two dimensions (one where `block` is 1), tensor.dtype. A detached view that follows the tensor's values where
    the tensor is dense (channels-last too), else a copy. It is made of blocks of so many elements, for on the CPU it is
    not the elements that cost but the places in memory. The distance between blocks is odd, so that they do not stand
    above each other in a matrix whose width is a power of two; what that leaves over, at most about an eighth, is the
    end. The same elements each time.
    """
    whole = tensor.detach() if tensor.requires_grad else tensor
    if not whole.is_contiguous():
        whole = _flat(whole)
    blocks, elements = size // block, whole.numel()
    if elements < 2 * size or not blocks:
        return whole.view(-1)
    distance = elements // blocks
    if block == 1:  # next to nothing may be left over where the distance is as small as two
        return whole.as_strided((-(-elements // (distance | 1)),), (distance | 1,))
    return whole.as_strided((blocks, block), (distance - 1 + distance % 2, 1))


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row of `rows`, of shape (n, m), its sum and that of the squared distances from its mean.

    float32[n] or float64[n] each; zero where m is 0. Two passes in float32 (float64 stays): one pass over squares
    loses everything for a mean far from zero.
    """
    rows = rows if rows.dtype == torch.float64 else rows.float()
    totals = rows.sum(dim=1)
    distances = torch.sub(rows, totals.unsqueeze(1), alpha=1 / max(rows.shape[1], 1))
    return totals, _norm(distances, dim=1).square_()


@torch.no_grad()
def spectral_excess(weight: Tensor, iterations: int = 8) -> Tensor:
    """Return the largest singular value of `weight` over that of a random matrix of its size and variance: float32[].

    `weight` is flattened to a matrix, a row a unit. Of n columns and m rows of independent entries with standard
    deviation σ it is σ (√m + √n) in the limit (Bai and Yin 1993): draws of nine shapes from 2 x 3 to 512 x 784 gave at
    most 1.08. What training adds is of low rank, so that trained weights stand out: SELU nets trained until the size of
    their weights had left its bounds gave 1.2 to 1.7. It is found from below, by `iterations` of the power method after
    the mean of all entries is taken out; NaN where they are all the same.
    """
    matrix = weight.detach().flatten(1).float()
    matrix = matrix - matrix.mean()
    vector = matrix[0]
    for _ in range(iterations):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / _norm(vector)
    m, n = matrix.shape
    largest: Tensor = _norm(matrix @ vector) / _norm(matrix)
    return largest * (math.sqrt(m * n) / (math.sqrt(m) + math.sqrt(n)))


def positive_counts(rows: Tensor) -> Tensor:
    """Return the number of elements above zero in each row of `rows`, which holds none below zero: float32[n]."""
    # On the CPU the sum of the sign is ten times as fast as a comparison and a count.
    return rows.sign().sum(dim=1, dtype=torch.float32)


def saturated_counts(rows: Tensor, limits: tuple[float, float], margin: float = 0.01) -> Tensor:
    """Return the number of elements within `margin` of a limit in each row of `rows`: float32[n].

    `margin` is a share of the span between the limits, so that a sigmoid σ(2x) and the tanh(x) = 2σ(2x) − 1 made
    of it saturate at the same x: at 1 % their slope is 4 % of the steepest.
    """
    low, high = limits
    distance_from_centre = (rows.float() - (low + high) / 2).abs_()
    return (distance_from_centre >= (0.5 - margin) * (high - low)).float().sum(dim=1)


def unit_peaks(x: Tensor, unit_dimension: int) -> Tensor:
    """Return the largest value of each unit over all other dimensions of `x`: x.dtype[units], never a view of `x`.

    A unit that fires for no element of the batch has a peak of at most 0; NaN survives. A tensor of one dimension
    or none holds one unit, whose samples are its elements. `x` must not be empty.
    """
    dimensions = x.dim()
    return x.amax(_all_but(unit_dimension, dimensions)) if dimensions > 1 else x.amax().reshape(1)


@cache
def _all_but(dimension: int, dimensions: int) -> tuple[int, ...]:
    return tuple(d for d in range(dimensions) if d != dimension % dimensions)


def _norms_on_cpu(tensors: Sequence[Tensor]) -> Tensor:
    """As `l2_norms`: one kernel for all small tensors of a shape, for it is the number of kernels that costs."""
    alike: dict[tuple[torch.Size, torch.dtype], list[int]] = defaultdict(list)
    for i, t in enumerate(tensors):
        alike[t.shape, t.dtype].append(i)
    norms = [_norms_alike([tensors[i] for i in group]) for group in alike.values()]
    if len(norms) == 1:
        return norms[0]
    order = tuple(i for group in alike.values() for i in group)
    return torch.cat(norms).index_select(0, _places(order))


@lru_cache(maxsize=64)
def _places(order: tuple[int, ...]) -> Tensor:
    """Where each of 0, 1, 2, … stands in `order`: int64[len(order)]. To make it anew takes longer than to use it."""
    return torch.tensor(order, device="cpu").argsort()


def _norms_alike(tensors: list[Tensor]) -> Tensor:
    if tensors[0].is_complex():  # of pairs of numbers: the kernel for complex ones is six times as far off
        tensors = [torch.view_as_real(t.resolve_conj()) for t in tensors]
    size, dtype = tensors[0].numel(), torch.float32 if tensors[0].dtype in _HALF else None
    while size > DIRECT:
        flat = [t if t.is_contiguous() else _flat(t) for t in tensors]
        rows, rest = divmod(size, ROW)
        tensors = [_norm(t.view(rows, ROW), dim=1, dtype=dtype) if not rest else _row_norms(t, dtype) for t in flat]
        size = tensors[0].numel()
    together = torch.stack(tensors) if len(tensors) > 1 else tensors[0]
    return _norm(together.reshape(len(tensors), size), dim=1, dtype=dtype).float()


def _row_norms(t: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor of one dimension with the same norm as `t`, smaller by a factor of about `ROW`; with a rest."""
    flat, rest = t.view(-1), t.numel() % ROW
    norms = _norm(flat[:-rest].view(-1, ROW), dim=1, dtype=dtype)
    return torch.cat((norms, flat[-rest:].abs().to(norms.dtype)))


def _foreach_norm(tensors: list[Tensor], accumulate: torch.dtype | None) -> Sequence[Tensor]:
    # An accelerator reduces in a tree, which is exact enough.
    return torch._foreach_norm(tensors, 2, accumulate) if tensors else ()


_HALF = (torch.float16, torch.bfloat16)
"""Accumulated in float32, for their squares overflow at 256 or lose digits. Other dtypes refuse a narrower one."""


def _flat(t: Tensor) -> Tensor:
    """The elements of `t` in the order of memory, next to each other: a view of any dense tensor, channels-last too."""
    if t.is_contiguous():
        return t.view(-1)
    by_stride = sorted(range(t.dim()), key=t.stride, reverse=True)
    # Of every other element, or of one that is repeated, `reshape` makes a view with gaps.
    return t.permute(by_stride).reshape(-1).contiguous()
