"""What ranks send each other: units packed into numbers that can be summed."""

import numpy as np
import pytest
import torch

from gradscope.probes.layout import EXACT_BITS, pack, unpack, words


def test_of_two_ranks_a_number_holds_26_units_and_of_a_thousand_5() -> None:
    assert [words(26, 2), words(27, 2), words(5, 1000), words(6, 1000), words(0, 2)] == [1, 2, 1, 2, 0]


def test_a_unit_that_fired_on_any_rank_fired() -> None:
    first, second = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    total = pack(first, 2) + pack(second, 2)
    assert total.tolist() == [[2 + 4 * 1]]
    assert unpack(total.numpy(), 3, 2).tolist() == [[True, True, False]]


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 1000, 2**20])
def test_no_number_of_ranks_spills_into_the_unit_beside(ranks: int) -> None:
    units = 60
    fired = torch.zeros(2, units, dtype=torch.bool)
    fired[0, ::2] = True
    total = (pack(fired, ranks) * ranks).numpy()  # as if each of them sent the same
    assert total.max() < 2.0**EXACT_BITS
    np.testing.assert_array_equal(unpack(total, units, ranks), fired.numpy())


def test_what_one_rank_sent_can_be_taken_off_again() -> None:
    generator = torch.Generator().manual_seed(0)
    sent = [torch.rand(3, 100, generator=generator) < 0.3 for _ in range(5)]
    others = (sum(pack(fired, 5) for fired in sent) - pack(sent[2], 5)).numpy()
    expected = torch.stack([fired for i, fired in enumerate(sent) if i != 2]).any(dim=0)
    np.testing.assert_array_equal(unpack(others, 100, 5), expected.numpy())


def test_no_units_are_no_numbers() -> None:
    nothing = pack(torch.zeros(2, 0, dtype=torch.bool), 2)
    assert nothing.shape == (2, 0)
    assert unpack(nothing.numpy(), 0, 2).shape == (2, 0)
