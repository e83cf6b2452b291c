"""A fit on some processes of a CPU, to be run as a script: each rank writes down what came of it.

``python -m tests.ranks.fit RANKS FOLDER CASE...``, where each CASE is one of `CASES`, fitted one after the other, and
has a folder of its own. All ranks together see the same batches, in the same order, for any number of them.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from gradscope import GradScope
from gradscope.lightning.cadence import Cadence
from gradscope.probes.liveness import LivenessProbe
from gradscope.ranks import group
from gradscope.recorder import Recorder
from tests.models import Classifier, trainer

BATCHES, SIZE = 30, 16

Batch = tuple[Tensor, Tensor]
Spoil = Callable[[int, int, Batch], Batch]


class Shards:
    """Every so many of the samples of each batch, of which the first rank has the first; `spoil` changes some."""

    def __init__(self, rank: int, ranks: int, spoil: Spoil | None, last: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches = []
        for number in range(BATCHES):
            size = last if number == BATCHES - 1 else SIZE
            x = torch.randn(size, 20, generator=generator)
            y = torch.randint(0, 4, (size,), generator=generator)
            batch = x[rank::ranks], y[rank::ranks]
            self.batches.append(batch if spoil is None else spoil(rank, number, batch))

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Net(nn.Module):
    """Three kinds of activations, the first of them behind `branch`, which may do another thing on each rank."""

    def __init__(self, branch: Callable[[Any, Tensor], Tensor] | None = None, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(20, 16), first or nn.ReLU()
        self.second, self.tanh = nn.Linear(16, 12), nn.Tanh()
        self.third, self.selu = nn.Linear(12, 8), nn.SELU()
        self.last = nn.Linear(8, 4)
        self.extra = nn.Linear(16, 16) if branch is not None else None
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = x if self.branch is None else self.branch(self, x)
        y: Tensor = self.last(self.selu(self.third(self.tanh(self.second(x)))))
        return y


class Model(Classifier):
    def __init__(self, net: nn.Module, spoil: Spoil | None = None, last: int = SIZE) -> None:
        super().__init__(net)
        self.spoil, self.last = spoil, last

    def train_dataloader(self) -> Any:
        return Shards(self.trainer.global_rank, self.trainer.world_size, self.spoil, self.last)


class ByHand(Model):
    """The same in manual optimization, past Lightning's own optimizer if it is to be `raw`."""

    raw = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers(use_pl_optimizer=not self.raw)
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class Raw(ByHand):
    raw = True


@dataclass
class Case:
    """What is particular about a fit; `broken` is how it is on each rank meanwhile, by the rank."""

    net: Callable[[int], nn.Module] = lambda rank: Net()
    model: type[Model] = Model
    spoil: Spoil | None = None
    last: int = SIZE
    broken: Callable[[int], AbstractContextManager[object]] = lambda rank: nullcontext()
    callbacks: Callable[[int], list[pl.Callback]] = lambda rank: []
    with_gradscope: Callable[[int], bool] = lambda rank: True
    of_strategy: dict[str, Any] = field(default_factory=dict)
    of_trainer: dict[str, Any] = field(default_factory=dict)


def sometimes(net: Any, x: Tensor) -> Tensor:
    """On rank one, from the third batch on: a layer and a function that no other rank knows of."""
    net.calls = getattr(net, "calls", -1) + 1
    if int(os.environ.get("LOCAL_RANK", "0")) == 1 and net.calls >= 2:
        return F.relu(net.extra(x))
    return x


def compiled(rank: int) -> nn.Module:
    net = Net()
    net.compile(backend="eager")
    return net


def scaled(rank: int, number: int, batch: Batch) -> Batch:
    return (batch[0] * 8 - 6, batch[1]) if rank == 1 else batch


def not_a_number(rank: int, number: int, batch: Batch) -> Batch:
    return (batch[0] * float("nan"), batch[1]) if rank == 1 and number == 13 else batch


def fails_on_rank_one(owner: type, method: str, at: int) -> Callable[[int], AbstractContextManager[object]]:
    original, calls = getattr(owner, method), iter(range(10**6))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise RuntimeError("broken on purpose")
        return original(*args, **kwargs)

    return lambda rank: patch.object(owner, method, failing) if rank == 1 else nullcontext()


class Dies(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 6 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Raises(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 6 and trainer.global_rank == 1:
            raise RuntimeError("the user's own")


CASES = {
    "plain": Case(),
    "accumulation": Case(of_trainer={"accumulate_grad_batches": 4}),
    "uneven": Case(last=6),
    "static graph": Case(of_strategy={"static_graph": True}),
    "compiled": Case(net=compiled),
    "by hand": Case(model=ByHand),
    "past Lightning": Case(model=Raw),
    "conditional": Case(net=lambda rank: Net(sometimes), of_strategy={"find_unused_parameters": True}),
    "other activation": Case(net=lambda rank: Net(first=nn.GELU() if rank == 1 else nn.ReLU())),
    "outlier": Case(spoil=scaled),
    "nan": Case(spoil=not_a_number),
    "probe fails": Case(broken=fails_on_rank_one(LivenessProbe, "observe", 14)),
    "sharing fails": Case(broken=fails_on_rank_one(LivenessProbe, "share", 12)),
    "recorder fails": Case(broken=fails_on_rank_one(Recorder, "begin", 12)),
    "recorder fails at once": Case(broken=fails_on_rank_one(Recorder, "begin", 0)),
    "recorder fails past Lightning": Case(model=Raw, broken=fails_on_rank_one(Recorder, "begin", 12)),
    "never attached": Case(broken=fails_on_rank_one(Recorder, "__init__", 0)),
    "beginning fails": Case(broken=fails_on_rank_one(Cadence, "begin", 0)),
    "on one rank alone": Case(
        with_gradscope=lambda rank: rank == 0, broken=lambda rank: patch.object(group, "TIMEOUT", timedelta(seconds=5))
    ),
    "killed": Case(callbacks=lambda rank: [Dies()]),
    "killed without": Case(callbacks=lambda rank: [Dies()], with_gradscope=lambda rank: False),
    "raises": Case(callbacks=lambda rank: [Raises()]),
    "raises without": Case(callbacks=lambda rank: [Raises()], with_gradscope=lambda rank: False),
    "without": Case(with_gradscope=lambda rank: False),
}


def main(ranks: int, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        fit(CASES[name], ranks, folder / name)


def fit(case: Case, ranks: int, folder: Path) -> None:
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.manual_seed(0)
    model = case.model(case.net(rank), case.spoil, case.last)
    scope = GradScope(every_n_steps=4, summary=False, log=False)
    strategy = DDPStrategy(process_group_backend="gloo", **case.of_strategy) if ranks > 1 else "auto"
    own = [scope] if case.with_gradscope(rank) else []
    options = {"devices": ranks, "strategy": strategy, "use_distributed_sampler": False, **case.of_trainer}
    with case.broken(rank):
        trainer(*case.callbacks(rank), *own, **options).fit(model)
    (folder / f"{rank}.json").write_text(json.dumps(outcome(scope, model)))


def outcome(scope: GradScope, model: nn.Module) -> dict[str, Any]:
    run = scope.run
    return {
        "steps": run.steps.tolist(),
        "layers": [layer.name for layer in run.layers],
        "metrics": {name: values.tolist() for name, values in run.metrics.items()},
        "loss": run.series("loss").tolist(),
        "unseen": dict(run.coverage.unseen),
        "measured": dict(run.coverage.measured),
        "findings": [finding.as_dict() for finding in scope.findings],
        "outliers": [vars(outlier) for outlier in run.rank_outliers],
        "origin": vars(run.origin) if run.origin is not None else None,
        "weights": [parameter.tolist() for parameter in model.parameters()],
        "calls_of_forward_hooks": sum(len(module._forward_hooks) for module in model.modules()),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
