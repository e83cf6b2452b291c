"""The ledger of a step where there is little to write into it."""

import numpy as np
import torch
from torch import nn

from gradscope import Thresholds
from gradscope.probes.gradients import GradientProbe
from gradscope.probes.probe import Parameters, Step


def test_an_optimizer_without_gradients_is_measured_wherever_the_loss_scale_is() -> None:
    """As that of a generator, while the critic learns."""
    parameters = Parameters((nn.Parameter(torch.ones(3)),), np.zeros(1, dtype=np.int64))
    elsewhere = Step(0, parameters, loss_scale=torch.ones(1, device="meta"), scaled=True)
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
