"""What ranks send each other for a record: the same number at the same place on each of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.records import Float64s

EXACT_BITS = 52
"""Bits of a float64 in which sums of integers are exact."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What all ranks agreed to send; only `rows` differ between them."""

    ranks: int
    """How many there are."""
    rows: npt.NDArray[np.int64]
    """int64[n]: the rows that the activations have on this rank, in the agreed order."""
    kinds: tuple[str, ...]
    """What these activations are."""
    widths: npt.NDArray[np.int64]
    """int64[n]: the units of each rectifier, over all ranks; 0 where they are not known, and for any other kind."""
    batches: int
    """Micro-batches that a step has at most."""
    parameters: tuple[int, ...]
    """How many parameters each optimizer has, by its number; empty where no parameter is sharded."""


def words(units: int, ranks: int) -> int:
    """Return how many numbers `pack` makes of so many units."""
    return -(-units // _units_in_a_word(ranks))


def pack(fired: Tensor, ranks: int) -> Tensor:
    """Return which units have `fired`, bool[batches, units], as float64[batches, words].

    Each number holds as many units as it has room for counts up to `ranks`: 26 of 2 ranks, 5 of 1,000. Summed over the
    ranks, it holds for each unit on how many of them it fired.
    """
    batches, units = fired.shape
    a_word = _units_in_a_word(ranks)
    padded = torch.zeros(batches, words(units, ranks) * a_word, dtype=torch.float64, device=fired.device)
    padded[:, :units] = fired
    # Shifted, since a power need not be exact on every device.
    places = 1 << (ranks.bit_length() * torch.arange(a_word, dtype=torch.int64, device=fired.device))
    return padded.view(batches, -1, a_word) @ places.double()


def unpack(packed: Float64s, units: int, ranks: int) -> npt.NDArray[np.bool_]:
    """Return which units fired on any rank, bool[batches, units], of the sum of what each `pack` gave."""
    bits = ranks.bit_length()
    places = bits * np.arange(_units_in_a_word(ranks))
    counts = (packed.astype(np.int64)[:, :, np.newaxis] >> places) & ((1 << bits) - 1)
    return (counts > 0).reshape(len(packed), -1)[:, :units]


def _units_in_a_word(ranks: int) -> int:
    return EXACT_BITS // ranks.bit_length()
