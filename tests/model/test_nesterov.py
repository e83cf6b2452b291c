"""Gradients that SGD has overwritten by its momentum: measured as it was given them."""

import importlib
import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from gradscope import GradScope, Run
from gradscope.model.nesterov import momenta_in_gradients
from tests.models import Batches, Classifier, mlp, trainer


def fit(foreach: bool, **of_trainer: Any) -> Run:
    torch.manual_seed(3)
    optimizer = partial(SGD, momentum=0.9, nesterov=True, foreach=foreach)
    scope = GradScope(every_n_steps=1, summary=False)
    trainer(scope, **of_trainer).fit(Classifier(mlp(), lr=0.01, optimizer=optimizer), Batches(9))
    assert scope.run.coverage.unseen == {}
    return scope.run


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipped_gradients_are_those_that_momentum_was_added_to(algorithm: str) -> None:
    clips = {"gradient_clip_val": 0.05 if algorithm == "norm" else 0.002, "gradient_clip_algorithm": algorithm}
    alone, together = (fit(foreach, **clips) for foreach in (False, True))
    assert (alone.series("clip_coefficient") < 0.9).all(), "clipping bites"
    np.testing.assert_allclose(together.metric("grad_norm"), alone.metric("grad_norm"), rtol=1e-5)
    np.testing.assert_allclose(together.metric("grad_norm_clipped"), alone.metric("grad_norm_clipped"), rtol=1e-5)
    np.testing.assert_allclose(together.series("total_norm_clipped"), alone.series("total_norm_clipped"), rtol=1e-5)
    if algorithm == "norm":
        np.testing.assert_allclose(together.series("total_norm_clipped"), 0.05, rtol=1e-4)


def test_what_nobody_clipped_is_not_measured_twice() -> None:
    """Not a bit is lost by taking the momentum away again."""
    run = fit(foreach=True)
    np.testing.assert_array_equal(run.metric("grad_norm_clipped"), run.metric("grad_norm"))
    assert (run.series("clip_coefficient") == 1).all()


def stepped(make: Any) -> tuple[Optimizer, list[nn.Parameter], list[Tensor], list[Tensor]]:
    """Make three steps; return the optimizer, the parameters, what the last gradients were and what they are."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    idle = nn.Parameter(torch.ones(2))
    optimizer: Optimizer = make([*parameters, idle])
    given = []
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn(4, 3)
        given = [torch.as_tensor(p.grad).clone() for p in parameters]
        optimizer.step()
    return optimizer, parameters, given, [torch.as_tensor(p.grad) for p in parameters]


CHOICES = {
    "foreach": (True, False, None),
    "fused": (True, False, None),
    "nesterov": (True, False),
    "weight_decay": (0, 0.1),
    "maximize": (True, False),
    "momentum": (0.9, 0.0),
}


@pytest.mark.parametrize("devices", [[], ["cpu"]], ids=["as on a CPU", "as on an accelerator"])
def test_what_was_added_is_known_for_every_choice(devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.import_module("torch.optim.optimizer"), "_get_foreach_kernels_supported_devices", lambda: devices
    )
    for values in itertools.product(*CHOICES.values()):
        options = dict(zip(CHOICES, values, strict=True))
        if not (options["foreach"] and options["fused"]):  # which torch refuses
            assert_known(options)


def assert_known(options: dict[str, Any]) -> None:
    def sgd(parameters: list[nn.Parameter]) -> Optimizer:
        optimizer = SGD(parameters, lr=0.1, **(options | {"momentum": 0.9}))
        optimizer.param_groups[0]["momentum"] = options["momentum"]  # zero is refused at first, but may come
        return optimizer

    optimizer, parameters, given, left = stepped(sgd)
    before = [*optimizer.state]
    momenta = momenta_in_gradients(optimizer)
    assert [*optimizer.state] == before, "to look is not to touch"
    overwritten = [p for p, a, b in zip(parameters, given, left, strict=True) if not torch.equal(a, b)]
    assert set(momenta) == set(overwritten), options
    for p, a, b in zip(parameters, given, left, strict=True):
        times, momentum = momenta.get(p, (0.0, torch.zeros(1)))
        torch.testing.assert_close(b - times * momentum, a)


def test_some_choice_overwrites() -> None:
    optimizer, parameters, *_ = stepped(lambda ps: SGD(ps, lr=0.1, momentum=0.9, nesterov=True, foreach=True))
    assert set(momenta_in_gradients(optimizer)) == set(parameters)


def test_a_class_of_the_users_own_is_known_as_long_as_it_steps_as_sgd_does() -> None:
    class Named(SGD):
        pass

    class StepsItself(SGD):
        def step(self, closure: Any = None) -> Any:
            return None

    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "foreach": True}
    optimizer, parameters, *_ = stepped(lambda ps: Named(ps, **options))
    assert set(momenta_in_gradients(optimizer)) == set(parameters)
    assert momenta_in_gradients(stepped(lambda ps: StepsItself(ps, **options))[0]) == {}


def test_other_optimizers_leave_gradients_alone() -> None:
    assert momenta_in_gradients(stepped(lambda ps: Adam(ps, foreach=True))[0]) == {}
