"""Strategies that nobody knows: training is unharmed, and what GradScope cannot learn from them is said."""

from typing import Any

import pytest
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import Strategy
from torch import Tensor

from gradscope import GradScope
from tests.models import Batches, Classifier, mlp, trainer
from tests.test_modes import assert_same, hooks


def refuse(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("nothing is told")


class Foreign(Strategy):
    """No more than what Lightning asks for: neither `world_size` nor anything of its own."""

    root_device = torch.device("cpu")
    is_global_zero = True
    global_rank = local_rank = 0

    def __init__(self) -> None:
        super().__init__(accelerator=CPUAccelerator())

    def reduce(self, tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return tensor

    def model_to_device(self) -> None:
        pass


class SaysNotWhichRank(Foreign):
    is_global_zero = property(refuse)


class CannotAgree(Foreign):
    world_size = 2
    reduce_boolean_decision = refuse


class SendsNothing(Foreign):
    world_size = 2

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return refuse() if isinstance(obj, dict) else obj


class OddScaler(Foreign):
    """Its precision plugin has a scaler of no known kind."""

    def __init__(self) -> None:
        super().__init__()
        self.precision_plugin = Precision()
        self.precision_plugin.scaler = "of some kind"  # type: ignore[attr-defined]


def fitted(kind: type[Strategy], *scopes: GradScope) -> Any:
    torch.manual_seed(1)
    model, fitter = Classifier(mlp()), trainer(*scopes, strategy=kind(), accelerator="auto", devices="auto")
    fitter.fit(model, Batches(number=14))
    return model.state_dict(), fitter.optimizers[0].state_dict(), fitter.global_step, hooks(model, fitter)


OFF = "switched itself off: {} failed with NotImplementedError: nothing is told"


@pytest.mark.parametrize(
    ("kind", "steps", "unseen"),
    [
        (Foreign, 14, {}),
        (SaysNotWhichRank, 1, {"GradScope": OFF.format("_end_of_train_batch")}),
        (CannotAgree, 1, {"GradScope": OFF.format("on_train_batch_start")}),
        (  # by which gradients may be multiplied is not known, so that none are better than wrong ones
            OddScaler,
            0,
            {
                "GradScope": "switched itself off: on_fit_start failed with AttributeError: "
                "'str' object has no attribute 'is_enabled'"
            },
        ),
        (
            SendsNothing,
            14,
            {"callback_metrics": "not kept up to date after NotImplementedError: nothing is told"},
        ),
    ],
)
def test_a_strategy_that_nobody_knows(
    kind: type[Strategy], steps: int, unseen: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    scope = GradScope(every_n_steps=1, summary=False, on_finding="stop")
    assert_same(fitted(kind, scope), fitted(kind))
    assert len(scope.run.steps) == steps
    not_seen = dict(scope.run.coverage.unseen)
    alone = not_seen.pop("other ranks", None)
    assert alone in (None, "are not known to torch.distributed: activations are those of rank zero")
    assert not_seen == unseen
    assert len([r for r in caplog.records if r.name == "gradscope"]) == len(unseen) + (alone is not None)
