"""SELU nets of 8, 16 and 32 layers: with the recipe that normalises them, without it, and with batch norm instead.

Klambauer et al., "Self-Normalizing Neural Networks" (2017), prove that SELUs pull mean and variance towards 0 and 1,
and bound them (theorem 1), given LeCun-normal weights; their AlphaDropout keeps both. Here every layer of every net is
held against these bounds, before training and while it trains, and once more with the trained weights shuffled.
GradScope measures all outputs of a batch (`exact`), so that no layer is inside or outside by the luck of a sample.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from activation_cnn import lecun_normal_
from classifier import Classifier
from experiment import build_trainer, command_line, fit, load_data, print_verdicts, quiet_lightning, writable
from figures import BLUE, GREEN, VERMILION, new_figure, save, styled
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mlp import MLP
from mnist_data import MNISTDataModule
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gradscope import GradScope, Run, Thresholds
from gradscope.activations import SELF_NORMALIZING

Floats = npt.NDArray[np.float32]

DEPTHS = (8, 16, 32)
WIDTH = 128
DROPOUT = 0.05
EARLY = 50
"""After so many steps the nets are looked at for the second time, the first being before any."""

LECUN, DEFAULT, BATCH_NORM = "lecun", "default", "batch_norm"
VARIANTS = {
    LECUN: "LeCun-normal, AlphaDropout",
    DEFAULT: "default, Dropout",
    BATCH_NORM: "default, batch norm",
}
"""Initial weights, which by default are those of PyTorch, and what goes with them."""

COLORS = {LECUN: GREEN, DEFAULT: VERMILION, BATCH_NORM: BLUE}

BOUNDS = {"act_mean": Thresholds().selu_mean, "act_var": Thresholds().selu_variance}
"""Of the mean and of the variance of a SELU's outputs, as theorem 1 states them."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quiet_lightning()
    writable(options.logdir)
    data = load_data(options.data_dir, seed=options.seed)
    try:
        trained = train_all(data, options)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the nets are compared when all nine are trained.") from None
    draw(trained, options.logdir / "self_normalizing.png")
    Console().print(table(trained))
    print_verdicts([net.run for net in trained])
    print_lesson(trained)


def parse(arguments: Sequence[str] | None) -> Namespace:
    options = command_line(__doc__, "self_normalizing").parse_args(arguments)
    options.steps = 80 if options.fast else 1_000
    return options


# Training


class SelfNormalizing(Classifier):
    """An MLP of `depth` hidden SELU layers in one of `VARIANTS`, trained by plain gradient descent as in the paper."""

    def __init__(self, depth: int, variant: str) -> None:
        dropouts: dict[str, Callable[[], nn.Module]] = {
            LECUN: partial(nn.AlphaDropout, DROPOUT),
            DEFAULT: partial(nn.Dropout, DROPOUT),
        }
        network = MLP("selu", [WIDTH] * depth, batch_norm=variant == BATCH_NORM, dropout=dropouts.get(variant))
        super().__init__(network.apply(lecun_normal_) if variant == LECUN else network, learning_rate=0.01)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


@dataclass(frozen=True)
class Trained:
    """A net of `depth` SELU layers, and what GradScope recorded while it trained.

    `tau` is the sum of the squared weights of a unit at the end, as a mean for each layer in front of a SELU;
    `inside_shuffled` how many SELU layers are then inside both bounds, see `when_shuffled`.
    """

    depth: int
    variant: str
    run: Run
    tau: list[float]
    inside_shuffled: int

    def moments(self, metric: str) -> Floats:
        """`act_mean` or `act_var` of the SELU layers: before training, after `EARLY` steps and at last.

        float32[3, layers]; those at last are medians of the last five records, since every batch has its own.
        """
        values = self.run.metric(metric)[:, self.run.rows(SELF_NORMALIZING)]
        early = int(np.searchsorted(self.run.steps, EARLY))
        return np.stack([values[0], values[early], np.median(values[-5:], axis=0)])

    def inside(self) -> list[int]:
        """How many layers are inside both bounds, at the three times."""
        return [int(count) for count in inside(self.moments("act_mean"), self.moments("act_var")).sum(axis=1)]

    def loss(self) -> tuple[float, float]:
        """Mean training loss in the first record, and the median of the last ten."""
        losses = self.run.series("loss")
        return float(losses[0]), float(np.median(losses[-10:]))


def inside(mean: Floats, variance: Floats) -> npt.NDArray[np.bool_]:
    within = [(low <= v) & (v <= high) for v, (low, high) in zip((mean, variance), BOUNDS.values(), strict=True)]
    return np.logical_and(*within)


def train_all(data: MNISTDataModule, options: Namespace) -> list[Trained]:
    return [train(depth, variant, data, options) for depth, variant in product(DEPTHS, VARIANTS)]


def train(depth: int, variant: str, data: MNISTDataModule, options: Namespace) -> Trained:
    pl.seed_everything(options.seed, verbose=False)
    scope = GradScope(on_finding="ignore", summary=False, every_n_steps=5, exact=True)
    trainer = build_trainer(
        options.logdir / f"{variant}_{depth}",
        scope,
        max_steps=options.steps,
        max_epochs=-1,
        limit_val_batches=0,
    )
    model = SelfNormalizing(depth, variant)
    fit(trainer, model, data)
    weights = [layer.weight for layer in model.network.children() if isinstance(layer, nn.Linear)][:-1]
    tau = [weight.square().sum(dim=1).mean().item() for weight in weights]
    images = data.dataset.validation.first(1_000).images.to(model.device)
    return Trained(depth, variant, scope.run, tau, int(inside(*when_shuffled(model.network, images)).sum()))


@torch.no_grad()
def when_shuffled(network: nn.Module, images: Tensor) -> tuple[Floats, Floats]:
    """Mean and variance of each SELU layer, had the weights of each unit been put in a random order.

    That leaves the sum of a unit's weights and of their squares as they are, which is all that theorem 1 asks of them.
    What is gone is how the training fitted a weight to the input that it belongs to.
    """
    means, variances, values = [], [], images
    for module in network.children():
        if isinstance(module, nn.Linear):
            order = torch.rand_like(module.weight).argsort(dim=1)
            values = F.linear(values, module.weight.gather(1, order), module.bias)
        else:
            values = module(values)
        if isinstance(module, nn.SELU):
            means.append(values.mean().item())
            variances.append(values.var(correction=0).item())
    return np.array(means, dtype=np.float32), np.array(variances, dtype=np.float32)


# What is printed and drawn


def table(trained: Sequence[Trained]) -> Table:
    shown = Table(
        title=f"SELU layers inside both bounds: before training → after {EARLY} steps → at the end",
        caption="shuffled: at the end, with the weights of each unit put in a random order",
    )
    for heading in ("layers", "weights", "inside", "shuffled", "loss"):
        shown.add_column(heading)
    for net in trained:
        shown.add_row(
            str(net.depth),
            VARIANTS[net.variant],
            " → ".join(map(str, net.inside())),
            str(net.inside_shuffled),
            " → ".join(f"{value:.2f}" for value in net.loss()),
        )
    return shown


def print_lesson(trained: Sequence[Trained]) -> None:
    counts = {v: np.sum([net.inside() for net in trained if net.variant == v], axis=0) for v in VARIANTS}
    nets = [net for net in trained if net.variant == LECUN]
    tau = [value for net in nets for value in net.tau]
    (faint,) = (net.moments("act_var")[0, -1] for net in trained if net.variant == DEFAULT and net.depth == DEPTHS[-1])
    print(
        f"Where the theory holds: before training {counts[LECUN][0]} of the {sum(DEPTHS)} SELU layers behind "
        f"LeCun-normal weights are inside, and {counts[DEFAULT][0]} behind PyTorch's. These have a third of the "
        f"variance, and {DEPTHS[-1]} layers leave {faint:.2g} of that of the signal: too little to learn from.\n"
        f"Where it stops: at the end of the training {counts[LECUN][2]} of {sum(DEPTHS)} are inside. The weights are "
        f"not too large: their sums of squares lie between {min(tau):.2f} and {max(tau):.2f}, and the theorem wants "
        "[0.95, 1.1]. But it is about weights that know nothing of what they are given, and training fits the ones to "
        "the other. Shuffled, so that the fit alone is lost, the same weights keep "
        f"{sum(net.inside_shuffled for net in nets)} inside. AlphaDropout keeps both moments, in expectation only.\n"
        "Layers that began inside and leave while the loss falls are not ill, and GradScope makes a remark of them.\n"
        "Batch norm needs none of this, for it gives each SELU mean 0 and variance 1 by force: "
        f"{counts[BATCH_NORM][2]} are inside at the end."
    )


@styled
def draw(trained: Sequence[Trained], path: Path) -> None:
    figure = new_figure(12, 9)
    panels = figure.subplots(3, len(DEPTHS), sharey="row")
    for net in trained:
        column = panels[:, DEPTHS.index(net.depth)]
        for axes, metric in zip(column[:2], BOUNDS, strict=True):
            draw_moments(axes, net, metric)
        column[2].plot(net.run.steps, net.run.series("loss"), color=COLORS[net.variant], linewidth=1)
        column[0].set(title=f"{net.depth} SELU layers", xlabel="SELU layer")
        column[1].set(yscale="log", xlabel="SELU layer")
        column[2].set(xlabel="step")
    for row, bounds in enumerate(BOUNDS.values()):
        for axes in panels[row]:
            axes.axhspan(*bounds, color="grey", alpha=0.2, linewidth=0)
    for axes, label in zip(
        panels[:, 0], ("mean of the outputs", "variance of the outputs", "training loss (nats)"), strict=True
    ):
        axes.set_ylabel(label)
    figure.suptitle(
        "LeCun-normal weights start every SELU layer inside the bounds; PyTorch's default ones lose the signal"
    )
    add_legend(figure)
    save(figure, path)


def draw_moments(axes: Axes, net: Trained, metric: str) -> None:
    layers, (before, _, last) = np.arange(1, net.depth + 1), net.moments(metric)
    axes.plot(layers, before, ":", color=COLORS[net.variant])
    axes.plot(layers, last, color=COLORS[net.variant])


def add_legend(figure: Figure) -> None:
    variants = [Line2D([], [], color=COLORS[variant], label=label) for variant, label in VARIANTS.items()]
    times = [
        Line2D([], [], color="grey", linestyle=":", label="before training"),
        Line2D([], [], color="grey", label="at the end"),
    ]
    bounds = Patch(color="grey", alpha=0.2, label="inside the bounds of theorem 1")
    figure.legend(handles=[*variants, *times, bounds], loc="outside lower center", ncols=3)


if __name__ == "__main__":
    main()
