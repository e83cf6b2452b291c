"""The recorder by itself, moment by moment: orders of events that only some optimizers and precisions bring about."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from gradscope import Record, Thresholds
from gradscope.recorder import Recorder
from tests.models import mlp


class Step:
    """A net with its gradients computed, in a recorded step."""

    def __init__(self) -> None:
        self.net = mlp()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.recorder = Recorder(self.net, Thresholds(), lambda name: True)
        self.recorder.begin([self.optimizer])
        self.backward()

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.net(torch.randn(8, 20)).square().sum().backward()

    def scale_gradients(self, factor: float) -> None:
        for parameter in self.net.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(factor)

    def record(self) -> Record:
        self.recorder.end_batch(None)
        self.recorder.end(0)
        record = self.recorder.poll(wait=True)
        assert record is not None
        assert self.recorder.failures == {}
        return record


def test_an_announced_step_is_measured_before_it_is_clipped() -> None:
    step = Step()
    step.recorder.before_optimizer_step(step.optimizer)
    step.scale_gradients(0.25)
    step.optimizer.step()  # without a closure, as a GradScaler does it
    record = step.record()
    assert record.globals["clip_coefficient"] == pytest.approx(0.25)
    assert record.globals["skipped"] == 0
    np.testing.assert_allclose(record.metrics["grad_norm_clipped"], record.metrics["grad_norm"] * 0.25, rtol=1e-6)


def test_a_step_that_is_announced_and_does_not_come_was_skipped() -> None:
    step = Step()
    step.recorder.before_optimizer_step(step.optimizer)
    record = step.record()
    assert record.globals["skipped"] == 1
    assert "clip_coefficient" not in record.globals
    assert np.isnan(record.metrics["grad_norm_clipped"]).all()
    assert np.isnan(record.metrics["update_ratio"]).all()
    assert np.isfinite(record.metrics["grad_norm"][::2]).all()


def test_a_skipped_step_does_not_hide_the_next_record() -> None:
    step = Step()
    step.recorder.before_optimizer_step(step.optimizer)
    step.record()
    step.recorder.begin([step.optimizer])
    step.backward()
    step.optimizer.step()  # past Lightning, which announces nothing
    assert np.isfinite(step.record().metrics["grad_norm"][::2]).all()


def test_a_tied_weight_whose_owner_is_not_watched_names_nobody() -> None:
    embedding, head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    recorder = Recorder(nn.Sequential(embedding, head), Thresholds(), lambda name: name == "1")
    recorder.begin([torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)])
    assert recorder.coverage().unseen == {}
    recorder.detach()


def test_an_optimizer_that_takes_no_hooks_costs_nothing() -> None:
    class Foreign:
        param_groups: tuple[dict[str, list[nn.Parameter]], ...] = ()

    recorder = Recorder(mlp(), Thresholds(), lambda name: True)
    recorder.begin([Foreign()])  # type: ignore[list-item]
    assert recorder.failures == {}
    assert recorder.listening
    recorder.detach()


def test_of_two_steps_in_a_record_the_last_counts_also_when_it_is_skipped() -> None:
    step = Step()
    step.recorder.before_optimizer_step(step.optimizer)
    step.optimizer.step()
    step.backward()
    step.recorder.before_optimizer_step(step.optimizer)
    record = step.record()
    assert record.globals["skipped"] == 1
    assert np.isnan(record.metrics["update_ratio"]).all()


def test_a_closure_that_is_evaluated_again_measures_the_last_gradients_and_the_first_weights() -> None:
    step = Step()
    first = [p.detach().clone() for p in step.net.parameters()]
    step.recorder.before_optimizer_step(step.optimizer)
    with torch.no_grad():
        for parameter in step.net.parameters():
            parameter.add_(0.1)  # LBFGS moves the weights between evaluations
    step.scale_gradients(3.0)
    gradients = [p.grad.clone() for p in step.net.parameters() if p.grad is not None]
    step.recorder.before_optimizer_step(step.optimizer)
    step.optimizer.step()
    record = step.record()
    moved = [new.detach() - old for new, old in zip(step.net.parameters(), first, strict=True)]
    norm = norms_of_pairs(gradients)
    assert record.metrics["grad_norm"][::2] == pytest.approx(norm, rel=1e-6)
    ratios = np.array(norms_of_pairs(moved)) / norms_of_pairs(first)
    assert record.metrics["update_ratio"][::2] == pytest.approx(ratios, rel=1e-5)


def norms_of_pairs(tensors: list[torch.Tensor]) -> list[float]:
    """The norm of each layer's weight and bias together."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return [torch.cat([w.flatten(), b]).double().norm().item() for w, b in pairs]


@pytest.mark.parametrize("end", [Recorder.detach, lambda recorder: recorder.end(0)], ids=["detach", "end"])
def test_nothing_is_attached_after_the_end(end: Callable[[Recorder], None]) -> None:
    step = Step()
    assert any(module._forward_hooks for module in step.net.modules())
    end(step.recorder)
    assert not any(module._forward_hooks for module in step.net.modules())
    assert not step.optimizer._optimizer_step_post_hooks
    assert not step.optimizer._optimizer_step_pre_hooks


def test_what_runs_between_micro_batches_is_not_seen() -> None:
    net = nn.Sequential(nn.Linear(20, 4), nn.SELU())
    recorder = Recorder(net, Thresholds(), lambda name: True)
    recorder.begin([])
    net(torch.zeros(3, 20))
    recorder.end_batch(None)
    net(torch.full((3, 20), 1e6))  # a validation batch, say
    recorder.begin_batch()
    net(torch.zeros(3, 20))
    recorder.end_batch(None)
    recorder.end(0)
    record = recorder.poll()
    assert record is not None
    assert len(record.layers) == 2
    assert abs(record.metrics["act_mean"][1]) < 1
