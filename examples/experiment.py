"""What the experiments share: the command line, a quiet training under GradScope, and how it ends."""

import logging
import signal
import warnings
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from mnist_data import CorruptDataError, MNISTDataModule
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console

from gradscope import GradScope, Run, diagnose
from gradscope.report import Overview, Report

EVENT_FILES = "events.out.tfevents.*"


def command_line(description: str | None, name: str) -> ArgumentParser:
    """Return a parser with the options of every experiment; `name` is that of its folder and of its picture."""
    parser = ArgumentParser(description=description, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a small edition: under a minute on two CPU cores")
    parser.add_argument("--data-dir", help="folder that holds MNIST/raw; else $GRADSCOPE_DATA, else ./data")
    parser.add_argument("--logdir", type=Path, default=Path("lightning_logs", name), help="of the runs and the picture")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the dropout and the order of the images")
    return parser


def writable(folder: Path) -> Path:
    """Make `folder` and see that a file can be written there, before hours of training.

    Raises:
        SystemExit: it cannot; the message says why.
    """
    trial = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise SystemExit(
            f"`--logdir` must be a folder that can be written to, got {str(folder)!r} ({error.strerror}): "
            "name another one"
        ) from None
    return folder


def quiet_lightning() -> None:
    # Lightning announces its devices, seeds and plans at level INFO; its warnings stay, but for two that are not the
    # reader's to mend: of a class that newer releases of PyTorch rename, and of experiments that validate nothing.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
    warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")


def load_data(data_dir: str | None, **options: Any) -> MNISTDataModule:
    """Return MNIST, or the digits, ready to be trained on; `options` are those of `MNISTDataModule`.

    Raises:
        SystemExit: a file is corrupt; the message names it and its checksum.
    """
    data = MNISTDataModule(data_dir, **options)
    data.prepare_data()
    try:
        data.setup()
    except CorruptDataError as error:
        raise SystemExit(str(error)) from None
    return data


def build_trainer(folder: Path, scope: GradScope, callbacks: Iterable[pl.Callback] = (), **options: Any) -> pl.Trainer:
    """Return a Trainer whose log goes to `folder`, for a GPU where there is one.

    Event files that an earlier training left there are removed: TensorBoard would draw both as one.
    """
    for leftover in folder.glob(EVENT_FILES):
        leftover.unlink()
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "logger": TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False),
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**(settings | options), callbacks=[scope, *callbacks])


def fit(trainer: pl.Trainer, model: pl.LightningModule, data: Any) -> None:
    """Train; Ctrl-C is a `KeyboardInterrupt` for the caller."""
    with _catchable_ctrl_c(trainer):
        trainer.fit(model, data)


def measure_accuracy(trainer: pl.Trainer, model: pl.LightningModule, data: Any) -> float:
    """Return the share of test images that are told rightly; Ctrl-C is a `KeyboardInterrupt` for the caller."""
    with _catchable_ctrl_c(trainer):
        (metrics,) = trainer.test(model, data, verbose=False)
    return float(metrics["test_accuracy"])


@contextmanager
def _catchable_ctrl_c(trainer: pl.Trainer) -> Iterator[None]:
    # Lightning ends the process instead, and leaves the signal ignored.
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def print_verdicts(runs: Sequence[Run]) -> None:
    """Print one line of GradScope's verdict for each run."""
    Console().print(Overview([Report(run, diagnose(run)) for run in runs]))
