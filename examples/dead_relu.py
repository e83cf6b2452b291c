"""Sparse is not dead: what a learning rate that is too large for five steps does to a ReLU net, and to its variants.

The same net is trained five times on MNIST: once in peace, and with ReLU, leaky ReLU, ELU and GELU through the same
accident, after which the learning rate is as before. A ReLU gives zero for about half of what it is given, and that is
healthy; a unit that gives zero for *every* image has no gradient, and nothing can bring it back.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from classifier import Classifier
from experiment import build_trainer, command_line, fit, load_data, print_verdicts, quiet_lightning, writable
from figures import COLORS, new_figure, save, styled
from matplotlib.axes import Axes
from mlp import MLP
from mnist_data import Examples, MNISTDataModule
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gradscope import GradScope, Run, diagnose

HIDDEN = [64] * 5
LEARNING_RATE = 1e-3
CHECK_EVERY = 5

FLAT = 1e-3
"""A slope of the activation up to which a unit learns next to nothing: a thousandth of that of a ReLU which fires."""

IN_PEACE = "relu in peace"
NETS = {IN_PEACE: "relu", "relu": "relu", "leaky_relu": "leaky_relu", "elu": "elu", "gelu": "gelu"}
"""The activation of each net. All but the first have the accident."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quiet_lightning()
    writable(options.logdir)
    data = load_data(options.data_dir, seed=options.seed)
    trained: dict[str, Trained] = {}
    try:
        for name in NETS:
            trained[name] = train(name, data, options)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the nets are compared when all five are trained.") from None
    draw(trained, options.accident, options.logdir / "dead_relu.png")
    Console().print(table(trained, options.accident))
    print_verdicts([net.run for net in trained.values()])
    print_findings(trained)
    print_lesson(trained, options.accident)


def parse(arguments: Sequence[str] | None) -> Namespace:
    parser = command_line(__doc__, "dead_relu")
    parser.add_argument("--accident-rate", type=float, default=0.05, help="the learning rate of the accident")
    options = parser.parse_args(arguments)
    if not options.accident_rate > 0:
        parser.error(f"`--accident-rate` must be above 0, got {options.accident_rate}")
    start, options.steps = (150, 350) if options.fast else (600, 1_600)
    options.accident = range(start, start + 5)
    return options


# Training


class Student(Classifier):
    """An MLP with weights from N(0, 2 / fan_in) and no biases at first, as He et al. (2015) advise for rectifiers.

    With PyTorch's own initialisation a tenth of the units of the deeper layers never fires from the start.
    """

    def __init__(self, activation: str) -> None:
        super().__init__(MLP(activation, HIDDEN), LEARNING_RATE)
        for layer in self.network.children():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # By default Adam remembers the squares of the gradients for a thousand steps: after the huge ones of the
        # accident its steps would be tiny for as long, and no net could show whether it recovers.
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, betas=(0.9, 0.99))


class Accident(pl.Callback):
    """Gives the optimizer another learning rate in some steps, and its own before and after."""

    def __init__(self, steps: range, rate: float) -> None:
        self.steps, self.rate = steps, rate

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        rate = self.rate if trainer.global_step in self.steps else LEARNING_RATE
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate


class Checks(pl.Callback):
    """After every few steps: accuracy and flat units of each hidden layer, on images that are not trained on."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.steps: list[int] = []
        self.accuracy: list[float] = []
        self.flat: list[list[float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step % CHECK_EVERY:
            return
        images, labels = self.examples.to(pl_module.device)
        self.steps.append(trainer.global_step)
        self.accuracy.append((pl_module(images).argmax(dim=1) == labels).float().mean().item())
        self.flat.append(flat_units(pl_module.get_submodule("network"), images))


def flat_units(network: nn.Module, images: Tensor) -> list[float]:
    """The share of each hidden layer's units with a slope below `FLAT` for all images. Of ReLUs these are the dead."""
    shares, values = [], images
    for name, module in network.named_children():
        given = values.detach().requires_grad_()
        values = module(given)
        if name.startswith("act"):
            (slope,) = torch.autograd.grad(values.sum(), given)
            shares.append((slope.abs() < FLAT).all(dim=0).float().mean().item())
    return shares


@dataclass(frozen=True)
class Trained:
    """What GradScope recorded of a net, and what was checked: float64[checks], and float64[checks, layers] for `flat`.

    `steps` is int64[checks]: after how many steps a check was made.
    """

    run: Run
    steps: npt.NDArray[np.int64]
    accuracy: npt.NDArray[np.float64]
    flat: npt.NDArray[np.float64]

    def rectifiers(self, metric: str) -> npt.NDArray[np.float32]:
        """A metric of the ReLU layers: float32[records, layers]."""
        return self.run.metric(metric)[:, self.run.rows("rectifier")]

    def of_rectifiers(self, metric: str, step: int) -> str:
        """The mean over the ReLU layers at `step` and at the end; a dash where there are none."""
        values = self.rectifiers(metric)[[int(np.searchsorted(self.run.steps, step)), -1]]
        return percents(values.mean(axis=1)) if values.size else "–"

    def final_loss(self) -> float:
        """The median of the last ten records, since the loss of a single batch is a matter of luck."""
        return float(np.median(self.run.series("loss")[-10:]))


def train(name: str, data: MNISTDataModule, options: Namespace) -> Trained:
    pl.seed_everything(options.seed, verbose=False)
    checks = Checks(data.dataset.validation.first(500))
    happens = [] if name == IN_PEACE else [Accident(options.accident, options.accident_rate)]
    scope = GradScope(on_finding="ignore", summary=False, every_n_steps=CHECK_EVERY)
    folder = options.logdir / name.replace(" ", "_")
    trainer = build_trainer(
        folder, scope, [*happens, checks], max_steps=options.steps, max_epochs=-1, limit_val_batches=0
    )
    fit(trainer, Student(NETS[name]), data)
    arrays = (np.array(values) for values in (checks.steps, checks.accuracy, checks.flat))
    return Trained(scope.run, *arrays)


# What is printed and drawn


def table(trained: dict[str, Trained], accident: range) -> Table:
    shown = Table(
        title=f"Before the accident in steps {accident.start} to {accident[-1]} → at the end; means over hidden layers",
        caption=f"flat: with a slope below {FLAT:g} for every image",
    )
    for heading in ("net", "zero outputs", "dead units", "flat units", "accuracy, also right after"):
        shown.add_column(heading, justify="left" if heading == "net" else "right")
    for name, net in trained.items():
        before, after = (int(np.searchsorted(net.steps, step)) for step in (accident.start, accident.stop))
        shown.add_row(
            name,
            net.of_rectifiers("zero_fraction", accident.start),
            net.of_rectifiers("dead_fraction", accident.start),
            percents(net.flat[[before, -1]].mean(axis=1)),
            percents(net.accuracy[[before, after, -1]]),
        )
    return shown


def percents(shares: npt.NDArray[Any]) -> str:
    return " → ".join(f"{share:.0%}" for share in shares)


def print_findings(trained: dict[str, Trained]) -> None:
    for name, net in trained.items():
        for finding in diagnose(net.run):
            print(f"{name}: {finding.code} from step {finding.first_step} in {', '.join(finding.layers)}")


def print_lesson(trained: dict[str, Trained], accident: range) -> None:
    zero, dead = (trained[IN_PEACE].rectifiers(metric)[-1].mean() for metric in ("zero_fraction", "dead_fraction"))
    killed, run = trained["relu"].rectifiers("dead_fraction").mean(axis=1), trained["relu"].run
    told = int(np.searchsorted(run.steps, accident.stop)) + run.thresholds.dead_window
    flat = {name: net.flat[-1].mean() for name, net in trained.items()}
    print(
        f"Sparse is not dead: in peace {zero:.0%} of the outputs are zero, and {dead:.0%} of the units are dead.\n"
        f"Ten records after the accident {killed[told]:.0%} are dead, at the end {killed[-1]:.0%}, though the learning "
        "rate is as before. What is left of the net learns on, "
        f"to a loss of {trained['relu'].final_loss():.2g}: the loss alone does not tell.\n"
        "No unit of the others is dead in the strict sense, for their slope is nowhere zero. But far below zero that "
        f"of ELU and GELU is next to zero: {flat['elu']:.0%} and {flat['gelu']:.0%} of their units are flat for every "
        f"image at the end, and {flat['leaky_relu']:.0%} of those of leaky ReLU, whose slope there is always 0.2."
    )


@styled
def draw(trained: dict[str, Trained], accident: range, path: Path) -> None:
    figure = new_figure(12, 8)
    panels = figure.subplots(2, 2, sharex=True)
    draw_rectifiers(panels[0, 0], trained, "zero_fraction")
    panels[0, 0].set(title="Half of the outputs of ReLUs are zero: sparse is healthy", ylabel="share of zero outputs")
    draw_rectifiers(panels[0, 1], trained, "dead_fraction")
    panels[0, 1].set(
        title="Units that fire for nothing: most are dead for good", ylabel="share of units silent for 10 records"
    )
    for name, net in trained.items():
        panels[1, 0].plot(net.run.steps, net.run.series("loss"), linewidth=1, **style_of(name))
        panels[1, 1].plot(net.steps, net.flat.mean(axis=1), **style_of(name))
    panels[1, 0].set(title="All losses come back down: the loss tells nothing of the dead")
    panels[1, 0].set(ylabel="training loss (nats)", yscale="log", xlabel="step")
    panels[1, 1].set(title="Only leaky ReLU has no flat unit", xlabel="step", ylim=(-0.02, 1))
    panels[1, 1].set(ylabel=f"share of units with a slope < {FLAT:g} for all images")
    for axes in panels.flat:
        axes.axvspan(accident.start, accident.stop, color="grey", alpha=0.5, linewidth=0)
        axes.legend(loc="upper left")
    panels[0, 0].annotate(
        f"learning rate too\nlarge for {len(accident)} steps", (accident.stop, 0.05), (8, 0), textcoords="offset points"
    )
    save(figure, path)


def style_of(name: str) -> dict[str, Any]:
    return {"color": COLORS[NETS[name]], "linestyle": ":" if name == IN_PEACE else "-", "label": name}


def draw_rectifiers(axes: Axes, trained: dict[str, Trained], metric: str) -> None:
    """Draw the mean over the ReLU layers, and a band from the least to the greatest."""
    for name in (IN_PEACE, "relu"):
        steps, values = trained[name].run.steps, trained[name].rectifiers(metric)
        axes.plot(steps, values.mean(axis=1), **style_of(name))
        axes.fill_between(steps, values.min(axis=1), values.max(axis=1), color=COLORS["relu"], alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1)


if __name__ == "__main__":
    main()
