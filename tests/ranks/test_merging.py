"""Records of several ranks merged, each rank played by this process: what they agree on, and what they take it for."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope import Thresholds
from gradscope.lightning.alarm import Alarm
from gradscope.ranks.group import Group
from gradscope.ranks.merging import RankMerge
from gradscope.ranks.of_fit import RanksOfFit
from gradscope.ranks.words import Facts
from gradscope.recorder import Recorder
from gradscope.records import Origin, RankOutlier
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


def recorder_of(merge: RankMerge, net: nn.Module) -> Recorder:
    return Recorder(net, Thresholds(), lambda name: True, merge=merge)


def record(recorder: Recorder, net: nn.Module, step: int) -> None:
    """A step of SGD, recorded."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    recorder.begin([optimizer])
    loss = net(torch.randn(8, 20)).square().mean()
    recorder.end_forward()
    loss.backward()
    recorder.before_optimizer_step(optimizer)
    optimizer.step()
    recorder.end_batch(loss)
    recorder.end(step)


@pytest.mark.parametrize("arrives", [True, False])
def test_news_of_a_sum_that_comes_late_are_heard_once_before_the_next(arrives: bool) -> None:
    group = Twins()
    merge = RankMerge(group)  # type: ignore[arg-type]
    merge._at_once = False  # as on an accelerator
    recorder = recorder_of(merge, net := mlp())
    record(recorder, net, 0)
    record(recorder, net, 1)
    assert group.calls == ["gather", "sum", "sum"]
    merge.own = Facts(Origin(2, "act", "forward"))
    record(recorder, net, 2)
    if not arrives:  # its copy fails, say; or this rank does, and answers before the copy has arrived
        recorder._in_flight.clear()
    record(recorder, net, 3)
    record(recorder, net, 4)
    assert group.calls == ["gather", "sum", "sum", "sum", "gather", "sum", "sum"]


def test_a_rank_that_fails_before_a_late_copy_has_arrived_keeps_the_order() -> None:
    group = Twins()
    merge = RankMerge(group)  # type: ignore[arg-type]
    merge._at_once = False
    recorder = recorder_of(merge, net := mlp())
    record(recorder, net, 0)
    merge.own = Facts(Origin(1, "act", "forward"))
    record(recorder, net, 1)
    merge.owe(2)
    merge.answer(3, "switched itself off")
    assert group.calls == ["gather", "sum", "sum", "gather"]
    assert merge.ended.startswith("not merged any more, because GradScope on rank 0 switched itself off")


def test_ranks_talk_from_the_device_of_the_strategy_whatever_the_module_says(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []

    def joined(device: torch.device) -> Twins:
        devices.append(device)
        return Twins(str(device))

    monkeypatch.setattr(Group, "joined", joined)
    for strategy in (SimpleNamespace(root_device=torch.device("meta")), SimpleNamespace()):
        ranks = RanksOfFit()
        ranks.join(strategy, torch.device("cpu"), may_end_the_fit=False)
        assert ranks.merge is not None
        assert ranks.merge._device == devices[-1]
    assert devices == [torch.device("meta"), torch.device("cpu")]


def test_what_ranks_measured_is_plain_as_a_checkpoint_has_to_be() -> None:
    recorder = recorder_of(RankMerge(Twins()), net := mlp())  # type: ignore[arg-type]
    record(recorder, net, 0)
    merged = recorder.poll()
    assert merged is not None
    assert {"loss", "nonfinite_loss", "total_norm"} <= merged.globals.keys()
    assert {name: type(value) for name, value in merged.globals.items()} == dict.fromkeys(merged.globals, float)
    alarm = Alarm()
    alarm.hear(merged)
    file = BytesIO()
    torch.save(alarm.state(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == alarm.state()


def test_ranks_that_stood_out_before_a_checkpoint_are_known_after_it() -> None:
    own, other = (RankOutlier(rank, "act0", "dead_fraction", 0.4, 0.02, 9, 19) for rank in (0, 1))
    alone, ranks = RanksOfFit(), RanksOfFit()
    ranks.merge = RankMerge(Twins())  # type: ignore[arg-type]
    for of_fit in (alone, ranks):
        of_fit.remember([own, other])
        assert of_fit.facts.outliers == (own, other)
        of_fit.hear()
        assert of_fit.facts.outliers == (own, other), "before the first record there is nothing new"
    recorder = recorder_of(ranks.merge, net := mlp())
    record(recorder, net, 20)
    ranks.hear()
    assert ranks.facts.outliers == (own, own), "both twins say what the first has to say"
