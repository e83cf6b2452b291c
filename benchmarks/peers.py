"""Other tools that watch gradients, each as a callback that records every step it is present in."""

import importlib.metadata
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import grad_norm
from torch import Tensor

NEVER = 2**62


class Peer(pl.Callback):
    """A tool to compare with, told of a step by Lightning's hooks.

    `enter` and `leave` come before and after each step that it records and are not timed: they hang up and take down
    what its users hang up once for all steps.
    """

    distribution = ""
    """What has to be installed, under the name that pip knows it by."""

    def enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None: ...

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None: ...

    def close(self) -> None: ...


class LightningGradNorm(Peer):
    """Lightning's own: the norm of each parameter's gradient, before clipping, through `log_dict` to the logger."""

    distribution = "pytorch-lightning"

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    def enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # What was logged once is gathered again after every later step: kept out of the plain steps beside this one.
        results = trainer._results
        assert results is not None
        results.update(self._results)
        trainer.log_every_n_steps = 1  # type: ignore[attr-defined]  # undeclared

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        results = trainer._results
        assert results is not None
        self._results = dict(results)
        results.clear()
        trainer.log_every_n_steps = NEVER  # type: ignore[attr-defined]  # undeclared


class WandbWatch(Peer):
    """`wandb.watch` of gradients and parameters, with a `log` that ends the step, written to a file offline."""

    distribution = "wandb"

    def __init__(self) -> None:
        os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
        wandb = importlib.import_module("wandb")
        self._folder = tempfile.TemporaryDirectory()
        self._run = wandb.init(dir=self._folder.name, mode="offline", settings=wandb.Settings(console="off"))

    def enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._run.watch(module, log="all", log_freq=1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._run.log({"batch": args[2]})

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._run.unwatch(module)

    def close(self) -> None:
        self._run.finish()
        self._folder.cleanup()


class Torchmortem(Peer):
    """`torchmortem.Autopsy` as it comes; what it analyses when it is taken down is not timed."""

    distribution = "torchmortem"

    def __init__(self) -> None:
        self._autopsy: Any = None

    def enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._autopsy is None:
            self._autopsy = importlib.import_module("torchmortem").Autopsy(module, optimizer=trainer.optimizers[0])
        self._autopsy.attach()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._autopsy.step(loss=_loss(args[0]).item())

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._autopsy.detach()


class TorchAudit(Peer):
    """`torch_audit.Auditor` of every step, through the patches that it offers for a loop it cannot change."""

    distribution = "torch-audit"

    def __init__(self) -> None:
        self._auditor: Any = None

    def enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._auditor is None:
            auditor = importlib.import_module("torch_audit").Auditor
            self._auditor = auditor(module.net, optimizer=trainer.optimizers[0], every_n_steps=1)
        self._auditor.autopatch(run_static=False, run_init=False)

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._auditor.unpatch()


def _loss(outputs: Any) -> Tensor:
    return torch.as_tensor(outputs["loss"] if isinstance(outputs, Mapping) else outputs)


PEERS: dict[str, type[Peer]] = {
    "lightning": LightningGradNorm,
    "wandb": WandbWatch,
    "torchmortem": Torchmortem,
    "torch-audit": TorchAudit,
}
"""By the name that the command line knows them by."""


def version(name: str) -> str | None:
    """Return the version of a peer that is installed, else None."""
    try:
        return importlib.metadata.version(PEERS[name].distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
