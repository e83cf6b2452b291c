"""The ledger of a step where there is little to write into it."""

import numpy as np
import pytest
import torch
from torch import nn

from gradscope import Thresholds
from gradscope.model.moment import Moment, Parameters
from gradscope.model.nesterov import Momenta
from gradscope.probes.gradients import GradientProbe
from gradscope.probes.layout import Layout


def test_an_optimizer_without_gradients_is_measured_wherever_the_loss_scale_is() -> None:
    """As that of a generator, while the critic learns."""
    parameters = Parameters((nn.Parameter(torch.ones(3)),), np.zeros(1, dtype=np.int64))
    elsewhere = Moment(0, parameters, loss_scale=torch.ones(1, device="meta"), scaled=True)
    probe = GradientProbe(Thresholds())
    probe.after_backward(elsewhere)
    probe.before_optimizer_step(elsewhere)
    probe.after_optimizer_step(elsewhere)
    pending = probe.finish(layers=1)
    assert sum(t.numel() for t in pending.tensors if not t.is_meta) == 0
    measured = pending.resolve(np.ones(1, dtype=np.float32))  # the loss scale
    assert np.isnan(measured.metrics["grad_norm"]).all()
    assert measured.metrics["no_gradient_fraction"].tolist() == [1]
    assert measured.globals == {"loss_scale": 1}


@pytest.mark.parametrize(("shapes", "share"), [([(0, 3), (3,)], 0.0), ([(3, 0), (0,)], float("nan"))], ids=str)
def test_no_gradient_is_missed_where_there_is_no_element_to_have_one(
    shapes: list[tuple[int, ...]], share: float
) -> None:
    """As in a Linear without inputs, or without outputs."""
    tensors = tuple(nn.Parameter(torch.ones(shape)) for shape in shapes)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    step = Moment(0, Parameters(tensors, np.zeros(len(shapes), dtype=np.int64)))
    probe = GradientProbe(Thresholds())
    probe.before_optimizer_step(step)
    probe.after_optimizer_step(step)
    pending = probe.finish(layers=1)
    measured = pending.resolve(np.concatenate([t.numpy() for t in pending.tensors]))
    np.testing.assert_equal(measured.metrics["no_gradient_fraction"].tolist(), [share])


def parameters_on(device: str, has_gradient: bool) -> Parameters:
    parameter = nn.Parameter(torch.ones(3, device=device))
    parameter.grad = torch.ones(3, device=device) if has_gradient else None
    return Parameters((parameter,), np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize("scaled", [False, True], ids=["", "with a loss scale"])
@pytest.mark.parametrize("have_gradients", [(False,), (False, True), (True, False)], ids=str)
def test_what_is_shared_is_where_the_gradients_of_any_optimizer_are(
    have_gradients: tuple[bool, ...], scaled: bool
) -> None:
    """A rank may hold no part of the parameters of one of them."""
    layout = Layout(2, np.empty(0, np.int64), (), np.empty(0, np.int64), 1, (1,) * len(have_gradients))
    probe = GradientProbe(Thresholds())
    for number, has_gradient in enumerate(have_gradients):
        scale = torch.ones(1, device="meta") if scaled else None
        step = Moment(number, parameters_on("meta", has_gradient), loss_scale=scale)
        probe.before_optimizer_step(step)
        probe.after_optimizer_step(step)
    shared = probe.share(layout)
    assert shared.shape == (GradientProbe(Thresholds()).merging().size(layout),)
    assert shared.is_meta == (scaled or any(have_gradients))


def test_gradients_that_momentum_was_added_to_may_be_on_several_devices() -> None:
    tensors = (*parameters_on("meta", True).tensors, *parameters_on("cpu", True).tensors)
    parameters = Parameters(tensors, np.zeros(2, dtype=np.int64))
    momenta: Momenta = {tensors[1]: (0.5, torch.ones(3))}
    probe = GradientProbe(Thresholds())
    step = Moment(0, parameters, momenta=lambda: momenta)
    probe.before_optimizer_step(step)
    probe.after_optimizer_step(step)
    norms = probe.finish(layers=1).tensors[-1]
    assert norms.shape == (2,)
