"""Loops of automatic optimization for `tests.modes`: what users do in them, and what Lightning's tools do."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from tests.models import Batch, Batches, Classifier, mlp, trainer

# ------------------------------------------------------------------ users


class Overflows(Classifier):
    """The gradients of the third batch are infinite in half precision."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return loss * 1e6 if batch_idx == 2 else loss


class TurnsToNan(Classifier):
    """All gradients of the fourth batch are NaN, and everything after it."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return loss * float("nan") if batch_idx == 3 else loss


class SometimesNone(Classifier):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return None if batch_idx in (1, 2) else super().training_step(batch, batch_idx)


class SetsToZero(SometimesNone):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)


class ReturnsDict(Classifier):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "extra": torch.ones(3)}


class TakesIterator(Classifier):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(tuple(t.to(self.device) for t in batch), batch_idx)


class Penalizes(Classifier):
    """The loss holds a gradient of its own."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = batch[0].clone().requires_grad_()
        loss = F.cross_entropy(self.net(x), batch[1])
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + 100 * slope.square().sum()


class LeavesEpoch(Classifier):
    """Refuses the fourth batch of the first epoch, and so the rest of it."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 and self.current_epoch == 0 else None

    def on_train_epoch_end(self) -> None:
        self.net(torch.full((2, 20), 1e3, device=self.device))


class StepsEveryOther(Classifier):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class ClipsItself(Classifier):
    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.05)


class Shrinks(Classifier):
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        shrink(self.trainer, self, optimizer)


class ShrinksAsCallback(pl.Callback):
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        shrink(trainer, pl_module, optimizer)


def shrinks_on_the_instance() -> pl.LightningModule:
    model: Any = Classifier(mlp())
    model.on_before_optimizer_step = lambda optimizer: shrink(model.trainer, model, optimizer)
    return model  # type: ignore[no-any-return]


def shrink(trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
    """Halve all gradients in a way that autograd does not count."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.data.mul_(0.5)


class ShrinksInHook(Classifier):
    def on_train_start(self) -> None:
        optimizer = self.trainer.optimizers[0]
        optimizer.register_step_pre_hook(lambda *_: shrink(self.trainer, self, optimizer))


class SchedulesRate(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ReplacesOptimizer(Classifier):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.trainer.strategy.optimizers = [Adam(self.parameters(), lr=0.01)]


class TrainsLoss(Classifier):
    """The optimizer has a parameter that belongs to no module."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.loose = [nn.Parameter(torch.tensor([1.0, 2.0]))]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1]) + self.loose[0].square().sum()

    def configure_optimizers(self) -> Any:
        return SGD([*self.parameters(), *self.loose], lr=0.1)


class ConfiguresModel(Classifier):
    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def configure_model(self) -> None:
        if isinstance(self.net, nn.Identity):
            self.net = mlp()


class WithNone(Batches):
    """The third batch is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.batches[2] = None  # type: ignore[call-overload]


def fit_in_float64(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        fitter.fit(model, batches)
    finally:
        torch.set_default_dtype(torch.float32)


def fit_and_validate(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    fitter.fit(model, batches, Batches(2, seed=2))


def fit_distributed(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    fitter.fit(model, batches)
    torch.distributed.destroy_process_group()


NOT_IN_BAREBONES = (
    "logger",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "log_every_n_steps",
)
"""Options that such a Trainer does not take."""


# ------------------------------------------------------------------ what changes on the way


class TrainsUnfrozen(Classifier):
    """Gives its optimizer what is not frozen, as Lightning asks of those who unfreeze later."""

    def configure_optimizers(self) -> Any:
        return self.optimizer([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class Changes(TrainsUnfrozen):
    """`change` happens to the net and the optimizer before the fourth batch."""

    def __init__(self, change: Callable[[Any, Optimizer], None], net: nn.Module | None = None) -> None:
        super().__init__(net or mlp(), optimizer=partial(SGD, momentum=0.9))
        self.change = change

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 3:
            self.change(self.net, self.trainer.optimizers[0])


class Unfreezes(Classifier):
    """Its optimizer has everything from the start."""

    def __init__(self) -> None:
        super().__init__(frozen())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 3:
            self.net.requires_grad_(True)


class FreezesInTurn(Classifier):
    """Now the first layer is frozen, now the second: their gradients become zero, not None."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        for layer in (0, 1):
            self.net.get_submodule(str(2 * layer)).requires_grad_(batch_idx % 2 == layer)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)


def frozen() -> nn.Module:
    net = mlp()
    net[0].requires_grad_(False)
    return net


def freeze(net: Any, optimizer: Optimizer) -> None:
    net[0].requires_grad_(False)


def unfreeze(net: Any, optimizer: Optimizer) -> None:
    net[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.01})


def drop_bias(net: Any, optimizer: Optimizer) -> None:
    bias, net[2].bias = net[2].bias, None
    forget(optimizer, bias)


def drop_layer(net: Any, optimizer: Optimizer) -> None:
    weight, bias = net[2].parameters()
    net[2], net[3] = nn.Identity(), nn.AdaptiveAvgPool1d(12)
    forget(optimizer, weight)
    forget(optimizer, bias)


def forget(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    group = optimizer.param_groups[0]
    group["params"] = [p for p in group["params"] if p is not parameter]
    del optimizer.state[parameter]


def swap_data(net: Any, optimizer: Optimizer) -> None:
    for parameter in net.parameters():
        parameter.data = parameter.data * 0.9


def replace_weight(net: Any, optimizer: Optimizer) -> None:
    old = net[2].weight
    net[2].weight = new = nn.Parameter(old.detach() * 0.9)
    group = optimizer.param_groups[0]
    group["params"] = [new if p is old else p for p in group["params"]]
    optimizer.state[new] = optimizer.state.pop(old)


def add_layer(net: Any, optimizer: Optimizer) -> None:
    net.append(late := nn.Linear(4, 4).to(net[-1].weight.device))
    optimizer.add_param_group({"params": list(late.parameters())})


class Finetunes(BaseFinetuning):
    """Freezes the first layer, and trains it from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, train_bn=False)


# ------------------------------------------------------------------ other tools of Lightning


def ema() -> pl.Callback:
    """Averages weights, where Lightning can: from 2.6 on."""
    averaging = getattr(pl.callbacks, "WeightAveraging", None)
    return averaging(avg_fn=get_ema_avg_fn(0.9)) if averaging else pl.Callback()  # type: ignore[no-untyped-call]


class Copies(pl.Callback):
    """Copies the model and its optimizers in every way in the middle of each step."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        copy.deepcopy(trainer.optimizers)
        buffer = BytesIO()
        torch.save(pl_module, buffer)
        buffer.seek(0)
        twins = [torch.load(buffer, weights_only=False), pickle.loads(pickle.dumps(pl_module))]
        nets: list[Any] = [pl_module.net, copy.deepcopy(pl_module.net), *(twin.net for twin in twins)]
        first, *others = (net(torch.ones(2, 20, device=loss.device)) for net in nets)
        assert all(torch.equal(other, first) for other in others)


def find_rate(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    assert Tuner(fitter).lr_find(model, batches, num_training=8) is not None
    fitter.fit(model, batches)


class HasLoader(Classifier):
    """Makes its own batches, of a size that a tuner may change."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.batch_size = 4

    def train_dataloader(self) -> Any:
        x, y = (torch.cat(parts) for parts in zip(*Batches(4), strict=True))
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size, shuffle=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if len(batch[0]) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().training_step(batch, batch_idx)


def find_batch_size(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    Tuner(fitter).scale_batch_size(model, steps_per_trial=1, max_trials=2, init_val=8)
    assert model.batch_size == 8
    fitter.fit(model)


def resume(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    path = Path(fitter.default_root_dir) / "half.ckpt"
    half = trainer()
    half.fit(model, batches)
    half.save_checkpoint(path)
    fitter.fit(model, batches, ckpt_path=path)


def fit_twice(fitter: pl.Trainer, model: Any, batches: Any) -> None:
    trainer(*fitter.callbacks).fit(model, batches)  # type: ignore[attr-defined]
    fitter.fit(model, batches)
