"""What GradScope costs: steps that are recorded against their neighbours that are not, in one and the same fit.

    python benchmarks/overhead.py [--steps 300] [--threads 1]

Recorded and unrecorded steps alternate, and each recorded step is compared with the mean of the two beside it, so that
a machine that slows down for a while slows down both. A row with TensorBoard writes a log as a user's run does; what it
shows is the median of the differences, and as a share of a step if every 1st, 10th or 50th were recorded.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gradscope import GradScope

WARM_UP = 12


class Case(NamedTuple):
    """A model, and how to make a batch of inputs for it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


def mnist_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def deep_mlp(width: int) -> nn.Module:
    hidden = [layer for _ in range(48) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, activation=nn.ReLU())
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.encoder(x).mean(1)))


CASES = (
    Case("MNIST CNN, batch 128", mnist_cnn, lambda: torch.randn(128, 1, 28, 28)),
    Case("50-layer MLP, width 256, batch 128", lambda: deep_mlp(256), lambda: torch.randn(128, 784)),
    Case("50-layer MLP, width 32, batch 16", lambda: deep_mlp(32), lambda: torch.randn(16, 784)),
    Case("transformer, 12 x 256, batch 8 x 64", Transformer, lambda: torch.randn(8, 64, 256)),
)


class _Repeat(Dataset[tuple[Tensor, Tensor]]):
    """The same batch again and again: loading must not disturb the measurement."""

    def __init__(self, batch: tuple[Tensor, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batch


class Training(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Clock(pl.Callback):
    """Takes the time at the start of each step, when the device has done all that was asked of it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def differences(case: Case, steps: int, log: bool) -> tuple[float, float]:
    """Return the median seconds of a step that is not recorded, and the median extra seconds of one that is."""
    clock, scope = Clock(), GradScope(every_n_steps=2, summary=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="auto", devices=1, max_steps=steps, max_epochs=-1, callbacks=[clock, scope],
            logger=TensorBoardLogger(folder) if log else False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        batch = case.inputs()
        labels = torch.randint(0, 10, (len(batch),))
        trainer.fit(Training(case.build()), DataLoader(_Repeat((batch, labels)), batch_size=None))
    lasted = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    recorded = set(scope.run.steps.tolist())
    inner = range(WARM_UP, len(lasted) - 1)
    extra = [lasted[i] - (lasted[i - 1] + lasted[i + 1]) / 2 for i in inner if i in recorded]
    return statistics.median(lasted[i] for i in inner if i not in recorded), statistics.median(extra)


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of each fit (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    table = Table(title=f"Cost of GradScope on {device_name()}, torch {torch.__version__}")
    for column in ("model", "step", "recorded step", "every step", "every 10", "every 50"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for case in CASES:
        for log in (False, True):
            step, extra = differences(case, options.steps, log)
            shares = [f"{extra / step / n:+.2%}" for n in (1, 10, 50)]
            name = f"{case.name}{', TensorBoard' if log else ''}"
            table.add_row(name, f"{step * 1e3:.1f} ms", f"{extra * 1e3:+.2f} ms", *shares)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
