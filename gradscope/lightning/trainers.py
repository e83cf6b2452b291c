"""What GradScope has to know of a Trainer: its steps, its loss, its loggers, and who may change gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from gradscope.every_step import StepWatch
from gradscope.lightning.packages import classes
from gradscope.lightning.sinks import Say, ScalarSink, Sink, Sinks, TensorBoardSink, VerdictSink
from gradscope.lightning.verdicts import SHOWN
from gradscope.model.sharding import is_partial, local
from gradscope.records import Metric

if TYPE_CHECKING:
    import pytorch_lightning as pl  # of either package
    from pytorch_lightning.loggers import Logger
    from torch.optim import Optimizer


def gradients_are_left_alone(trainer: pl.Trainer, module: pl.LightningModule, scope: pl.Callback) -> bool:
    """Say whether only Lightning's own code runs between our `on_before_optimizer_step` and the optimizer.

    A user's may change gradients through `.data`, which autograd does not count.
    """
    hooks = ("on_before_optimizer_step", "configure_gradient_clipping", "clip_gradients", "optimizer_step")
    callbacks = [c for c in trainer.callbacks if c is not scope]  # type: ignore[attr-defined]  # undeclared
    return (
        module.automatic_optimization
        and not any(_overrides(module, "LightningModule", hook) for hook in hooks)
        and not any(_overrides(callback, "Callback", "on_before_optimizer_step") for callback in callbacks)
        and not any(map(_has_hooks_of_others, trainer.optimizers))
    )


def _has_hooks_of_others(optimizer: Optimizer) -> bool:
    hooks = getattr(optimizer, "_optimizer_step_pre_hooks", None)
    if hooks is None:  # it is none of torch's
        return True
    return any(not isinstance(getattr(hook, "__self__", None), StepWatch) for hook in hooks.values())


def _overrides(thing: object, base: str, method: str) -> bool:
    lightnings = [getattr(kind, method) for kind in classes(base)]
    return method in vars(thing) or getattr(type(thing), method) not in lightnings


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step on the x-axis of every curve that Lightning logs.

    `global_step` is another number: it counts the steps of each of several optimizers.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def begins_from_scratch(trainer: pl.Trainer) -> bool:
    """Say whether nothing was trained yet in this fit, nor in one that it goes on from."""
    return trainer.global_step == 0 and trainer.ckpt_path is None


def loss_of(trainer: pl.Trainer, outputs: object) -> Tensor | None:
    """Return the loss of a micro-batch, of one element, from what the training step gave out: None without one."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or is_partial(loss) or (loss := local(loss)).numel() != 1:
        return None
    # Lightning has divided it by the number of micro-batches, also where the last step of an epoch has fewer.
    return loss if trainer.accumulate_grad_batches == 1 else loss * trainer.accumulate_grad_batches


def run_name(trainer: pl.Trainer) -> str:
    """Return the name of the run as the first logger has it; "fit" without a logger, or with one that fails."""
    logger = trainer.logger
    if logger is None:
        return "fit"
    try:
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        return "/".join(part for part in (logger.name, version) if part)
    except Exception:  # some ask a server, and each of them is told of when it is written to
        return "fit"


def sinks_of(trainer: pl.Trainer, columns: Sequence[Metric], parts: frozenset[str], say: Say) -> Sinks:
    """Return what writes to each logger, if anything is to be logged; what goes wrong there is told to `say`."""
    sinks: list[tuple[str, Callable[[], Sink]]] = []
    for logger in trainer.loggers if parts else []:
        name = type(logger).__name__
        sinks.append((name, partial(_sink_for, logger, columns, parts)))
        # Apart from the other, so that what fails in one of them takes nothing from the other.
        shows = [show for kind, show in SHOWN.items() if "verdicts" in parts and isinstance(logger, classes(kind))]
        sinks += [(f"the verdict of {name}", partial(VerdictSink, partial(show, logger))) for show in shows]
    return Sinks(sinks, say)


def _sink_for(logger: Logger, columns: Sequence[Metric], parts: frozenset[str]) -> Sink:
    # To TensorBoard in full, to any other the scalars.
    if isinstance(logger, classes("loggers.TensorBoardLogger")):
        writer = logger.experiment
        if not type(writer).__module__.startswith("tensorboardX"):
            return TensorBoardSink(writer, columns, parts)
    return ScalarSink(lambda metrics, step: logger.log_metrics(dict(metrics), step), columns, parts)


def flush(trainer: pl.Trainer) -> None:
    """Have all loggers write out what they hold; one that cannot keeps none of the others from it."""
    for logger in trainer.loggers:
        with suppress(Exception):  # Lightning does the same next, and what goes wrong is for it to tell
            logger.save()


def save_stopped(trainer: pl.Trainer) -> None:
    """Write a checkpoint of the state that the fit was stopped in, unless there is one or none are wanted.

    A ModelCheckpoint that saves at the end of an epoch has done so; one that saves every so many steps, or the best by
    a metric, may not have. Every rank has to call this.
    """
    wanted = [c for c in trainer.checkpoint_callbacks if isinstance(c, classes("callbacks.ModelCheckpoint"))]
    wanted = [c for c in wanted if c.dirpath and (c.save_top_k != 0 or c.save_last)]
    if wanted and not any(c._last_global_step_saved == trainer.global_step for c in wanted):
        path = os.path.join(str(wanted[0].dirpath), f"stopped-step={trainer.global_step}.ckpt")  # noqa: PTH118, may be a URL
        trainer.save_checkpoint(path, wanted[0].save_weights_only)
