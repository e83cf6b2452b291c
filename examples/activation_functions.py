"""Six activation functions and their derivatives: what each of them does to a gradient that passes through it.

On the way back a gradient is multiplied with the slope of every activation it meets. Draws the functions with their
slopes, and prints where the slope is greatest, where it is gone, and what ten layers in a row can do at most.
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from activation_cnn import ACTIVATIONS
from experiment import writable
from figures import COLORS, new_figure, save, styled
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from torch import Tensor

FLAT = 0.01
"""A slope below which next to nothing of a gradient is left."""

DEPTH = 10
SIGNS = {
    "sigmoid": "at most a quarter: it vanishes with depth",
    "relu": "all or nothing: a unit can die",
    "elu": "below zero less and less, but not nothing",
    "leaky_relu": "a fifth below zero: cannot die",
    "selu": "above one: lifts what is too small",
    "gelu": "like ReLU, but smooth",
}


@dataclass(frozen=True)
class Slopes:
    """The derivative of an activation on [-8, 8], by autograd, and what a gradient has to expect of it.

    `flat_share` is the share of standard normal inputs at which the slope is below `FLAT` in size; `flat` the
    intervals of inputs where that is so.
    """

    x: Tensor
    value: Tensor
    slope: Tensor

    @property
    def greatest(self) -> tuple[float, float]:
        """Where the slope is greatest, and how great it is there: of several places the one nearest zero."""
        candidates = torch.nonzero(self.slope >= self.slope.max() - 1e-9).flatten()
        at = candidates[self.x[candidates].abs().argmin()]
        return self.x[at].item(), self.slope[at].item()

    @property
    def flat(self) -> Tensor:
        """Whether next to nothing passes: bool[n]."""
        return self.slope.abs() < FLAT

    @property
    def flat_share(self) -> float:
        """The share of standard normal inputs at which next to nothing passes."""
        density = (-self.x.square() / 2).exp()
        return float((density * self.flat).sum() / density.sum())

    def at(self, x: float) -> float:
        """Return the slope at `x`."""
        return self.slope[(self.x - x).abs().argmin()].item()


def slopes(activation: str) -> Slopes:
    """Differentiate an activation of the CNN, in float64, at 16,001 points from -8 to 8; 0 is one of them."""
    x = torch.linspace(-8, 8, 16_001, dtype=torch.float64).requires_grad_()
    value: Tensor = ACTIVATIONS[activation]()(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return Slopes(x.detach(), value.detach(), slope)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--logdir", type=Path, default=Path("lightning_logs", "activation_functions"), help="for the picture"
    )
    parser.add_argument("--fast", action="store_true", help="there is nothing to train: it is fast anyway")
    options = parser.parse_args(arguments)
    writable(options.logdir)
    all_slopes = {activation: slopes(activation) for activation in ACTIVATIONS}
    Console().print(table(all_slopes))
    draw(all_slopes, options.logdir / "activation_functions.png")


def table(all_slopes: dict[str, Slopes]) -> Table:
    shown = Table(title="The slope: what a gradient is multiplied with")
    shown.add_column("activation")
    for heading in ("greatest", "at", "at -3", "at 0", "at 3", f"below {FLAT}, of N(0, 1)", f"{DEPTH} layers, at most"):
        shown.add_column(heading, justify="right")
    for activation, of_it in all_slopes.items():
        place, greatest = of_it.greatest
        shown.add_row(
            activation,
            f"{greatest:.3f}",
            f"{round(place, 2) + 0.0:.2f}",  # no -0.00
            *(f"{of_it.at(x):.3f}" for x in (-3, 0, 3)),
            f"{of_it.flat_share:.0%}",
            f"{greatest**DEPTH:.2g}",
        )
    return shown


@styled
def draw(all_slopes: dict[str, Slopes], path: Path) -> None:
    figure = new_figure(12, 7)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, (activation, of_it) in zip(panels, all_slopes.items(), strict=True):
        panel(axes, activation, of_it)
    figure.supxlabel("input of the activation")
    save(figure, path)


def panel(axes: Axes, activation: str, of_it: Slopes) -> None:
    """Draw a function, its slope, where that is greatest, and where a gradient dies."""
    color = COLORS[activation]
    axes.plot(of_it.x, of_it.value, color=color, alpha=0.35, linewidth=3, label=activation)
    axes.plot(of_it.x, of_it.slope, color=color, linewidth=2, label="its slope")
    gone = of_it.flat.numpy()
    axes.fill_between(of_it.x, -2, 3, where=gone, color="grey", alpha=0.15, linewidth=0, label=f"slope below {FLAT}")
    place, greatest = of_it.greatest
    axes.plot(place, greatest, "o", color=color)
    axes.annotate(
        f"at most {greatest:.3g}\n×{greatest**DEPTH:.2g} in {DEPTH} layers",
        (place, greatest),
        (place - 0.4, greatest + 0.45),
        ha="right",
        va="center",
        arrowprops={"arrowstyle": "-", "color": "grey"},
    )
    axes.set(title=activation, xlim=(-6, 6), ylim=(-2, 3))
    axes.text(0.98, 0.04, SIGNS[activation], ha="right", transform=axes.transAxes)
    if activation == "sigmoid":
        axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
