"""Sparse is not dead: a ReLU net that is sparse and sound, and what a learning rate far too high for ten steps does.

In a sound ReLU net most outputs are zero, but for other images other ones. A unit whose output is zero for all images
gets no gradient, and stays as it is: it is dead. The same accident befalls nets with other activations, whose slope
below zero is not zero: no unit of theirs is cut off, and all of them learn on.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from classifier import Classifier
from experiment import build_trainer, command_line, fit, load_data, print_verdicts, quiet_lightning, writable
from figures import COLORS, new_figure, save, styled
from matplotlib.axes import Axes
from mlp import MLP
from mnist_data import MNISTDataModule
from rich.console import Console
from rich.table import Table

from gradscope import GradScope, Run

HIDDEN = (128, 128, 128)
LEARNING_RATE, ACCIDENT_RATE, ACCIDENT_STEPS = 1e-3, 0.03, 10
STEPS, FAST_STEPS, FAST_EXAMPLES = 1200, 240, 4096
NETS = {"relu, no accident": "relu", "relu": "relu", "leaky_relu": "leaky_relu", "elu": "elu", "gelu": "gelu"}
"""The nets by the names of their runs, and their activations: all but the first have the accident."""


class Accident(pl.Callback):
    """Sets a learning rate far too high for `ACCIDENT_STEPS` steps from the step `start` on, and then puts it back."""

    def __init__(self, start: int) -> None:
        self.start = start

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        amiss = self.start <= trainer.global_step < self.start + ACCIDENT_STEPS
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = ACCIDENT_RATE if amiss else LEARNING_RATE


@dataclass(frozen=True)
class Trained:
    """A net after its training: what GradScope recorded, and the share of its units that are silent for all images."""

    run: Run
    accuracy: float
    silent: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = command_line(__doc__, "dead_relu").parse_args(arguments)
    options.steps = FAST_STEPS if options.fast else STEPS
    quiet_lightning()
    writable(options.logdir)
    data = load_data(options.data_dir, limit=FAST_EXAMPLES if options.fast else None)
    trained = {name: train(name, data, options) for name in NETS}
    Console().print(table(trained))
    print_verdicts([net.run for net in trained.values()])
    draw(trained, options.steps // 2, options.logdir / "dead_relu.png")


def train(name: str, data: MNISTDataModule, options: Namespace) -> Trained:
    pl.seed_everything(options.seed, verbose=False)
    data.seed = options.seed
    model = Classifier(MLP(NETS[name], HIDDEN), LEARNING_RATE)
    scope = GradScope(on_finding="ignore", summary=False)
    accident = [] if "no accident" in name else [Accident(options.steps // 2)]
    folder = Path(options.logdir, name.replace(", ", "_").replace(" ", "_"))
    trainer = build_trainer(folder, scope, accident, max_steps=options.steps, limit_val_batches=0)
    fit(trainer, model, data)
    (metrics,) = trainer.test(model, data, verbose=False)
    return Trained(scope.run, metrics["test_accuracy"], silent_units(model, data))


@torch.no_grad()
def silent_units(model: Classifier, data: MNISTDataModule) -> float:
    """Return the share of hidden units whose slope is zero for every image of the test, by brute force.

    It stands beside `dead_fraction`. Only a ReLU has such a slope.
    """
    model.eval()
    x, silent = data.dataset.test.images.to(model.device), []
    for module in model.network.children():
        x = module(x)
        if isinstance(module, torch.nn.ReLU):
            silent.append((x <= 0).all(dim=0))
    return torch.cat(silent).float().mean().item() if silent else 0.0


def over_layers(run: Run, metric: str) -> npt.NDArray[np.float32]:
    """The mean of `metric` over the rectifiers, for each record; they are equally wide."""
    values: npt.NDArray[np.float32] = run.metric(metric)[:, run.rows("rectifier")].mean(axis=1)
    return values


def table(trained: dict[str, Trained]) -> Table:
    shown = Table(title="After the training")
    shown.add_column("net")
    for heading in ("zero outputs", "dead units", "silent for all test images", "test accuracy", "last loss"):
        shown.add_column(heading, justify="right")
    for name, net in trained.items():
        rectifies = len(net.run.rows("rectifier")) > 0
        shown.add_row(
            name,
            *(
                f"{over_layers(net.run, metric)[-1]:.0%}" if rectifies else "–"
                for metric in ("zero_fraction", "dead_fraction")
            ),
            f"{net.silent:.0%}",
            f"{net.accuracy:.1%}",
            f"{net.run.series('loss')[-1]:.2f}",
        )
    return shown


@styled
def draw(trained: dict[str, Trained], start: int, path: Path) -> None:
    figure = new_figure(12, 4.2)
    sparse, dead, loss = figure.subplots(1, 3)
    for name, style in (("relu, no accident", "--"), ("relu", "-")):
        run = trained[name].run
        sparse.plot(run.steps, over_layers(run, "zero_fraction"), style, color=COLORS["relu"], label=name)
        dead.plot(run.steps, over_layers(run, "dead_fraction"), style, color=COLORS["relu"], label=name)
    for name, net in trained.items():
        style = "--" if "no accident" in name else "-"
        loss.plot(net.run.steps, net.run.series("loss"), style, color=COLORS[NETS[name]], label=name)
    for axes in (sparse, dead, loss):
        mark_accident(axes, start)
    sparse.set(title="Sparse: outputs that are zero", ylabel="zero_fraction", ylim=(0, 1))
    dead.set(title="Dead: units that are always zero", ylabel="dead_fraction", ylim=(0, 1))
    loss.set(title="The loss: what still lives learns on", ylabel="loss (nats)", yscale="log")
    dead.legend()
    loss.legend()
    save(figure, path)


def mark_accident(axes: Axes, start: int) -> None:
    axes.axvspan(start, start + ACCIDENT_STEPS, color="grey", alpha=0.4, linewidth=0)
    axes.annotate("learning rate\nfar too high", (start, 0.02), xycoords=("data", "axes fraction"), ha="right")
    axes.set_xlabel("step")


if __name__ == "__main__":
    main()
