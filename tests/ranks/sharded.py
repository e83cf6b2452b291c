"""A fit with parameters that are sharded over some processes of a CPU, to be run as a script: each rank writes down
what came of it.

``python -m tests.ranks.sharded RANKS FOLDER CASE...``, where each CASE is one of `CASES`, fitted one after the other,
and has a folder of its own. All ranks together see the same batches, in the same order, for any number of them and any
way to shard.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.optim import Optimizer

from gradscope import GradScope
from gradscope.model.sharding import local
from tests.models import Batch, trainer
from tests.ranks.fit import Shards, outcome

Meshes = Any


def net() -> nn.Sequential:
    """A net whose weights are cut evenly and unevenly by two, and one of which is too small to be cut."""
    return nn.Sequential(
        nn.Linear(20, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
        nn.Tanh(),
        nn.LayerNorm(5),
        nn.Linear(5, 8),
        nn.ReLU(),
        nn.Linear(8, 1),
    )


class Model(pl.LightningModule):
    """`shard` is what `configure_model` does to the net, by the meshes of the strategy."""

    def __init__(self, case: "Case") -> None:
        super().__init__()
        self.net, self.case = net(), case
        with torch.no_grad():
            self.net.get_parameter("0.bias")[
                :10
            ] = -100.0  # dead: on one rank more than on the other where units are cut

    def configure_model(self) -> None:
        if self.case.shard is not None and not getattr(self, "sharded", False):
            self.case.shard(self.net, self.device_mesh)
            self.sharded = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        prediction = self.net(x).flatten()
        return F.mse_loss(prediction, y.float()) * (float("nan") if batch_idx == self.case.nan_at else 1.0)

    def configure_optimizers(self) -> Optimizer:
        return self.case.optimizer(self.parameters())

    def train_dataloader(self) -> Any:
        ranks = self.trainer.world_size // self.case.replicas
        return Shards(self.trainer.global_rank // self.case.replicas, ranks, None, 16)


def fsdp2(layers: nn.Sequential, meshes: Meshes) -> None:
    mesh = meshes["data_parallel"]
    for number in (0, 5):
        fully_shard(layers[number], mesh=mesh)
    fully_shard(layers, mesh=mesh)


def hybrid(layers: nn.Sequential, meshes: Meshes) -> None:
    mesh = DeviceMesh("cpu", torch.arange(4).reshape(2, 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(layers[2], mesh=mesh)
    fully_shard(layers, mesh=mesh)


def tensor_parallel(layers: nn.Sequential, meshes: Meshes) -> None:
    """The last two layers with outputs that stay distributed."""
    plan: dict[str, ParallelStyle] = {
        "0": ColwiseParallel(),
        "2": RowwiseParallel(),
        "5": ColwiseParallel(use_local_output=False),
        "7": RowwiseParallel(),
    }
    parallelize_module(layers, meshes["tensor_parallel"], plan)


def sequence_parallel(layers: nn.Sequential, meshes: Meshes) -> None:
    plan: dict[str, ParallelStyle] = {
        "0": ColwiseParallel(),
        "2": RowwiseParallel(output_layouts=Shard(0), use_local_output=False),
        "4": SequenceParallel(sequence_dim=0),
        "5": ColwiseParallel(input_layouts=Shard(0)),
        "7": RowwiseParallel(),
    }
    parallelize_module(layers, meshes["tensor_parallel"], plan)


def both(layers: nn.Sequential, meshes: Meshes) -> None:
    tensor_parallel(layers, meshes)
    fsdp2(layers, meshes)


class OnTheCPU(FSDPStrategy):
    """FSDP1, which Lightning and torch keep for accelerators unless they are told."""

    def _setup_model(self, model: nn.Module) -> FullyShardedDataParallel:
        return FullyShardedDataParallel(
            model, sharding_strategy=self.sharding_strategy, device_id=torch.device("cpu"), **self.kwargs
        )


def fsdp1(how: Any, **options: Any) -> Callable[[], OnTheCPU]:
    return lambda: OnTheCPU(
        process_group_backend="gloo", sharding_strategy=how, auto_wrap_policy={nn.Linear}, **options
    )


def adamw(parameters: Any) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, foreach=False)  # together it refuses DTensors of different meshes


def sgd(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


CLIPPED = {"gradient_clip_val": 0.05}


@dataclass
class Case:
    """How a fit is sharded; `replicas` is how many ranks see the same samples."""

    shard: Callable[[nn.Sequential, Meshes], None] | None = None
    strategy: Callable[[], Any] = lambda: ModelParallelStrategy(2, 1)
    replicas: int = 1
    optimizer: Callable[[Any], Optimizer] = adamw
    of_trainer: dict[str, Any] = field(default_factory=dict)
    nan_at: int | None = None


BARE = ", bare"
"""Behind a case it means that nothing watches."""

CASES = {
    "alone": Case(strategy=lambda: "auto"),
    "alone, clipped": Case(strategy=lambda: "auto", optimizer=sgd, of_trainer=CLIPPED),
    "alone, accumulated": Case(strategy=lambda: "auto", of_trainer={"accumulate_grad_batches": 3}),
    "ddp": Case(strategy=lambda: DDPStrategy(process_group_backend="gloo")),
    "fsdp2": Case(fsdp2),
    "fsdp2, clipped": Case(fsdp2, optimizer=sgd, of_trainer=CLIPPED),
    "fsdp2, accumulated": Case(fsdp2, of_trainer={"accumulate_grad_batches": 3}),
    "fsdp2, nan": Case(fsdp2, nan_at=7),
    "hybrid": Case(hybrid, lambda: ModelParallelStrategy(4, 1)),
    "tensor parallel": Case(tensor_parallel, lambda: ModelParallelStrategy(1, 2), replicas=2),
    "sequence parallel": Case(sequence_parallel, lambda: ModelParallelStrategy(1, 2), replicas=2),
    "both": Case(both, lambda: ModelParallelStrategy(2, 2), replicas=2),
    "fsdp1": Case(strategy=fsdp1("FULL_SHARD")),
    "fsdp1, gradients": Case(strategy=fsdp1("SHARD_GRAD_OP")),
    "fsdp1, nothing": Case(strategy=fsdp1("NO_SHARD")),
    "fsdp1, nan": Case(strategy=fsdp1("FULL_SHARD"), nan_at=7),
    "fsdp1, flat": Case(strategy=fsdp1("FULL_SHARD", use_orig_params=False)),
}


def main(ranks: int, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        fit(CASES[name.removesuffix(BARE)], ranks, folder / name, not name.endswith(BARE))


def fit(case: Case, ranks: int, folder: Path, watched: bool) -> None:
    torch.manual_seed(0)
    model = Model(case)
    scope = GradScope(every_n_steps=4, summary=False, log=False, exact=True)
    options = {"devices": ranks, "strategy": case.strategy(), "use_distributed_sampler": False, **case.of_trainer}
    trainer(*([scope] if watched else []), **options).fit(model)
    result = outcome(scope, nn.Module()) | {
        "weights": [local(parameter).tolist() for parameter in model.parameters()],
        "types": [layer.type for layer in scope.run.layers],
        "totals": {name: values.tolist() for name, values in scope.run.globals.items()},
    }
    (folder / f"{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
