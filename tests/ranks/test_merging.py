"""Records of several ranks merged, each rank played by this process: what they agree on, and what they take it for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradscope import Thresholds
from gradscope.ranks.merging import Facts, RankMerge
from gradscope.ranks.of_fit import RanksOfFit
from gradscope.recorder import Recorder
from gradscope.records import Origin
from tests.models import mlp


class Twins:
    """A group of two ranks that always have the same to say: what this one says. `calls` are what it was asked for."""

    rank, size = 0, 2

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.calls: list[str] = []

    def sum(self, numbers: Tensor) -> Tensor:
        self.calls.append("sum")
        return 2 * numbers

    def gather(self, thing: Any) -> list[Any]:
        self.calls.append("gather")
        return [thing, thing]

    def leave(self) -> None:
        self.calls.append("leave")


def test_a_nan_that_a_checkpoint_tells_of_was_born_on_the_rank_that_it_names() -> None:
    ranks = RanksOfFit()
    ranks.merge = RankMerge(Twins())  # type: ignore[arg-type]
    ranks.tell(Facts(Origin(7, "act", "forward")))
    assert ranks.merge.own.origin == Origin(7, "act", "forward", rank=0)
    ranks.tell(Facts(Origin(7, "act", "forward", rank=1)))
    assert ranks.merge.own.origin == Origin(7, "act", "forward", rank=1)
