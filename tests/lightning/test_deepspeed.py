"""DeepSpeed, by a stand-in that keeps gradients and weights to itself as it does: what can be measured is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from gradscope import GradScope
from gradscope.model.sharding import DEEPSPEED
from tests.models import Batches, Classifier, mlp, trainer


class DeepSpeedZeroOptimizer:
    """Steps one flat copy of all weights, with gradients that it took away from the model when they were made."""

    __module__ = "deepspeed.runtime.zero.stage_1_and_2"

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        self._parameters, self._lr = parameters, lr
        self._gradients: list[torch.Tensor] = []
        self.flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        self.param_groups = [{"params": [self.flat], "lr": lr}]
        self.state: dict[Any, Any] = {}
        self.defaults: dict[str, Any] = {}

    def take_gradients(self) -> None:
        self._gradients = [p.grad for p in self._parameters if p.grad is not None]
        for p in self._parameters:
            p.grad = None

    def step(self, closure: Callable[[], Any]) -> None:
        closure()
        with torch.no_grad():
            torch._foreach_add_([*self._parameters], self._gradients, alpha=-self._lr)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._gradients = []

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Partitioned(Classifier):
    """`third` is stage 3, which partitions the parameters, too."""

    def __init__(self, third: bool = False) -> None:
        super().__init__(mlp())
        self.third = third

    def configure_optimizers(self) -> Any:
        self.held = DeepSpeedZeroOptimizer(list(self.net.parameters()), self.lr)
        for number, p in enumerate(self.net.parameters() if self.third else []):
            p.ds_id = number  # type: ignore[attr-defined]
        return self.held

    def on_after_backward(self) -> None:
        self.held.take_gradients()


def weights(model: pl.LightningModule, *callbacks: pl.Callback) -> list[Any]:
    trainer(*callbacks).fit(model, Batches(12))
    return [p.tolist() for p in model.parameters()]


@pytest.mark.parametrize("third", [False, True])
def test_what_deepspeed_keeps_to_itself_is_told_and_the_rest_measured(third: bool) -> None:
    torch.manual_seed(0)
    unwatched = weights(Partitioned(third))
    torch.manual_seed(0)
    scope = GradScope(every_n_steps=1, summary=False)
    assert weights(Partitioned(third), scope) == unwatched
    run = scope.run
    assert run.coverage.unseen == {"gradients and weights": DEEPSPEED}
    assert scope.findings == ()
    for name in ("grad_norm", "grad_norm_clipped", "no_gradient_fraction", "weight_norm", "update_ratio"):
        assert np.isnan(run.metric(name)).all(), name
    assert np.isnan(run.series("total_norm")).all()
    assert np.isfinite(run.series("loss")).all()
    relus = [layer.kind == "rectifier" for layer in run.layers]
    for name in ("act_mean", "dead_fraction"):
        assert np.isfinite(run.metric(name)[:, relus]).all(), name
