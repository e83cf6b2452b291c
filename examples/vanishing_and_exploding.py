"""Why gradients vanish and explode: from one neuron after another to real nets on MNIST.

Four experiments, after Nielsen's "Neural Networks and Deep Learning" (2015), chapter 5: a chain of single neurons,
whose gradient is a product that one can write down; sigmoid layers that learn at different speeds; an update so small
that the weight stays as it is; and a recurrent net that explodes, until its gradient is clipped where GradScope says.
"""

import math
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from classifier import Classifier
from experiment import build_trainer, command_line, fit, load_data, print_verdicts, quiet_lightning, writable
from figures import BLUE, GREEN, VERMILION, new_figure, save, styled
from matplotlib.axes import Axes
from mlp import CLASSES, MLP, PIXELS
from mnist_data import Examples, TensorBatches
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gradscope import GradScope, Run, Thresholds, diagnose

Floats = npt.NDArray[np.float32]

DEPTHS = (2, 3, 4, 5)
NIELSEN = {2: (0.07, 0.31), 3: (0.012, 0.060, 0.283), 4: (0.003, 0.017, 0.070, 0.285)}
"""What the book reports: the speed of each hidden layer of 30 before training, by the number of hidden layers."""

IMAGES = 1_000
"""As many as the book's program takes its gradients from."""

ARTICLE_WEIGHT, ARTICLE_RATE, ARTICLE_GRADIENT = 0.2, 0.5, 4.4e-8
"""A weight, a learning rate and a gradient that leave 0.199999978 of the weight."""

VANISHING, EXPLODING, CURED = BLUE, VERMILION, GREEN


def main(arguments: Sequence[str] | None = None) -> None:
    options = command_line(__doc__, "vanishing_and_exploding").parse_args(arguments)
    quiet_lightning()
    writable(options.logdir)
    images = load_data(options.data_dir, limit=IMAGES if options.fast else 4 * IMAGES).dataset.train
    try:
        chains = [measure_chain(1.0, 0.0, options), measure_chain(100.0, -50.0, options)]
        learning = {depth: train_nielsen(depth, images, options) for depth in DEPTHS}
        tiny = first_gradients(images, options)
        exploding, value, clipped = explode_and_cure(images, options)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the experiments are shown when all four are done.") from None
    print_chains(chains)
    Console().print(speed_table(learning))
    print_update(tiny)
    before, after = (run.series("loss")[-1] for run in (exploding, clipped))
    print(
        f"\nA recurrent net ends at a loss of {before:.3g}; clipped at {value:g}, as GradScope advises, at {after:.3g}."
    )
    print(f"GradScope of all (a gradient has vanished below {Thresholds().vanishing_ratio:g} of that near the loss):")
    print_verdicts([*(of_depth.run for of_depth in learning.values()), exploding, clipped])
    draw(chains, learning, tiny, [exploding, clipped], options.logdir / "vanishing_and_exploding.png")


def record(model: pl.LightningModule, data: object, folder: Path, **options: Any) -> Run:
    """Train under GradScope, quietly, and return what it recorded."""
    scope = GradScope(on_finding="ignore", summary=False, every_n_steps=5, log={"tensors"})
    fit(build_trainer(folder, scope, limit_val_batches=0, max_epochs=-1, **options), model, data)
    return scope.run


# 1. A chain of single neurons: ∂C/∂b₁ = σ′(z₁) · w₂ σ′(z₂) · … · w₅ σ′(z₅) · ∂C/∂a₅


class Chain(pl.LightningModule):
    """Five sigmoid neurons in a row, all with the weight `weight` and the bias `bias`; the cost is the output.

    Only the biases train, so that the gradient norm of a layer is the size of ∂C/∂b.
    """

    def __init__(self, weight: float, bias: float) -> None:
        super().__init__()
        self.neurons = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()) for _ in range(5))).double()
        for name, parameter in self.neurons.named_parameters():
            nn.init.constant_(parameter, weight if name.endswith("weight") else bias)
            parameter.requires_grad_(name.endswith("bias"))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        cost: Tensor = self.neurons(batch[0]).sum()
        return cost

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.0)


@dataclass(frozen=True)
class ChainGradients:
    """∂C/∂b of the five neurons: as GradScope measured it, and by the formula."""

    weight: float
    measured: list[float]
    formula: list[float]


def measure_chain(weight: float, bias: float, options: Namespace) -> ChainGradients:
    start = Examples(torch.full((1, 1), 0.5, dtype=torch.float64), torch.zeros(1))
    run = record(Chain(weight, bias), TensorBatches(start, 1), options.logdir / f"chain_w{weight:g}", max_steps=1)
    return ChainGradients(weight, run.metric("grad_norm")[0, run.rows("linear")].tolist(), formula(weight, bias))


def formula(weight: float, bias: float) -> list[float]:
    slopes, activation = [], 0.5
    for _ in range(5):
        activation = 1 / (1 + math.exp(-(weight * activation + bias)))
        slopes.append(activation * (1 - activation))
    factors = [slopes[-1], *(slope * weight for slope in reversed(slopes[:-1]))]
    return list(accumulate(factors, lambda product, factor: product * factor))[::-1]


# 2. Layers that learn at different speeds


class Bias(nn.Module):
    """The bias of a layer, as a layer of its own: GradScope then shows the norm of its gradient, the book's speed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class NielsenNet(Classifier):
    """784-30-…-30-10 of sigmoids as in the book: weights from N(0, 1 / fan_in), biases from N(0, 1), gradient descent.

    The cost is the cross-entropy of ten sigmoids, summed over them; pixels lie in [0, 1].
    """

    def __init__(self, depth: int, images: Tensor) -> None:
        widths = [PIXELS, *[30] * depth, CLASSES]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, width in pairwise(widths):
            weights = nn.Linear(fan_in, width, bias=False)
            nn.init.normal_(weights.weight, std=fan_in**-0.5)
            layers += [weights, Bias(width), nn.Sigmoid()]
        super().__init__(nn.Sequential(*layers[:-1]))  # the last sigmoid is in the cost
        self.low, self.range = images.min().item(), (images.max() - images.min()).item()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, labels = (batch[0] - self.low) / self.range, F.one_hot(batch[1], CLASSES).float()
        cost = F.binary_cross_entropy_with_logits(self(pixels), labels, reduction="sum")
        return cost / len(labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@dataclass(frozen=True)
class Learning:
    """The speed of each hidden layer: before training for several seeds, [seeds, layers], and while one net trains."""

    before: Floats
    speeds: Floats
    run: Run


def train_nielsen(depth: int, examples: Examples, options: Namespace) -> Learning:
    """Measure nets of several seeds in their first step, then train the first of them by full-batch descent."""
    batch = TensorBatches(examples.first(IMAGES), IMAGES)
    before = []
    for seed in range(options.seed, options.seed + (3 if options.fast else 10)):
        pl.seed_everything(seed, verbose=False)
        net, folder = NielsenNet(depth, examples.images), options.logdir / f"sigmoid_{depth}_before"
        before.append(speeds(record(net, batch, folder, max_steps=1))[0])
    pl.seed_everything(options.seed, verbose=False)
    net, folder = NielsenNet(depth, examples.images), options.logdir / f"sigmoid_{depth}"
    run = record(net, batch, folder, max_steps=100 if options.fast else 500)
    return Learning(np.array(before), speeds(run), run)


def speeds(run: Run) -> Floats:
    """The gradient norm of the bias of each hidden layer: float32[records, layers]."""
    return run.metric("grad_norm")[:, run.rows("parameters")[:-1]]


# 3. 0.2 - 0.5 · 0.000000044 = 0.199999978


def first_gradients(examples: Examples, options: Namespace) -> dict[int, float]:
    """The size of the gradient of a weight in the first layer, root mean square, for sigmoid nets ever deeper."""
    sizes = {}
    for depth in range(1, 9):
        pl.seed_everything(options.seed, verbose=False)
        net = Classifier(MLP("sigmoid", [30] * depth))
        run = record(net, TensorBatches(examples.first(IMAGES), IMAGES), options.logdir / f"first_{depth}", max_steps=1)
        sizes[depth] = float(run.metric("grad_norm")[0, 0]) / math.sqrt((PIXELS + 1) * 30)
    return sizes


def lost_below() -> float:
    """The gradient below which a step of float32 leaves the article's weight as it is.

    A step of less than half the distance to the next float32 number is rounded away.
    """
    return float(np.spacing(np.float32(ARTICLE_WEIGHT))) / 2 / ARTICLE_RATE


def updated(gradient: float, dtype: torch.dtype) -> float:
    weight = torch.tensor(ARTICLE_WEIGHT, dtype=dtype)
    return (weight - ARTICLE_RATE * torch.tensor(gradient, dtype=dtype)).item()


# 4. A recurrent net that explodes


class RowReader(Classifier):
    """Reads an image row by row: 28 times the same recurrent matrix, with rectifiers, and a learning rate of 0.05."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(1, 2), nn.RNN(28, 64, nonlinearity="relu", batch_first=True)))
        self.head = nn.Linear(64, CLASSES)
        parameters = dict(self.network.named_parameters())
        nn.init.eye_(parameters["1.weight_hh_l0"])
        nn.init.normal_(parameters["1.weight_ih_l0"], std=0.05)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.network(images)
        logits: Tensor = self.head(states[:, -1])
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def explode_and_cure(examples: Examples, options: Namespace) -> tuple[Run, float, Run]:
    """Train the net, read the value to clip at from what GradScope advises, and train it again with that alone."""
    steps = 100 if options.fast else 300
    before = read_rows(examples, options, "exploding", steps, None)
    value = suggested_clip(before)
    return before, value, read_rows(examples, options, "clipped", steps, value)


def read_rows(examples: Examples, options: Namespace, name: str, steps: int, clip: float | None) -> Run:
    pl.seed_everything(options.seed, verbose=False)
    batches = TensorBatches(examples, 128, shuffle=True, seed=options.seed)
    return record(RowReader(), batches, options.logdir / name, max_steps=steps, gradient_clip_val=clip)


def suggested_clip(run: Run) -> float:
    """The number in ``Trainer(gradient_clip_val=…)``, as it stands in what GradScope advises.

    Usually that is the cure of `exploding_gradient`. A net whose loss overflows in its very first step leaves no record
    of a gradient that has grown: then `non_finite` is all that is found, and its cure names a value too.

    Raises:
        SystemExit: nothing exploded.
    """
    for finding in sorted(diagnose(run), key=lambda finding: finding.code != "exploding_gradient"):
        if found := re.search(r"gradient_clip_val=([\d.e+-]*\d)", finding.hint):
            return float(found[1])
    raise SystemExit("the recurrent net did not explode with this seed: try another --seed")


# What is printed and drawn


def print_chains(chains: Sequence[ChainGradients]) -> None:
    for chain in chains:
        error = max(abs(m / f - 1) for m, f in zip(chain.measured, chain.formula, strict=True))
        print(f"Chain of five neurons, w = {chain.weight:g}: ∂C/∂b from the first to the last neuron")
        print("  measured  " + "  ".join(f"{gradient:.3g}" for gradient in chain.measured))
        print(
            "  formula   "
            + "  ".join(f"{gradient:.3g}" for gradient in chain.formula)
            + f"  (they differ by {error:.0e})"
        )


def speed_table(learning: dict[int, Learning]) -> Table:
    shown = Table(title="Speed of learning before training, hidden layers from first to last")
    for heading in ("hidden layers", "mean over seeds", "least to greatest last / first", "Nielsen"):
        shown.add_column(heading)
    for depth, of_depth in learning.items():
        growth = of_depth.before[:, -1] / of_depth.before[:, 0]
        shown.add_row(
            str(depth),
            "  ".join(f"{speed:.3f}" for speed in of_depth.before.mean(axis=0)),
            f"×{growth.min():.0f} to ×{growth.max():.0f}",
            "  ".join(f"{speed:g}" for speed in NIELSEN.get(depth, ())) or "not given",
        )
    return shown


def print_update(tiny: dict[int, float]) -> None:
    doubled, single = (updated(ARTICLE_GRADIENT, dtype) for dtype in (torch.float64, torch.float32))
    start, spacing = torch.tensor(ARTICLE_WEIGHT).item(), float(np.spacing(np.float32(ARTICLE_WEIGHT)))
    steps = ARTICLE_RATE * ARTICLE_GRADIENT / spacing
    print(f"{ARTICLE_WEIGHT} - {ARTICLE_RATE} · {ARTICLE_GRADIENT:g} = {doubled:.10f} in float64")
    print(
        f"  float32 has a number every {spacing:.2e} there: of {steps:.2f} such steps {(start - single) / spacing:g} is"
    )
    print(f"  taken, and with a gradient below {lost_below():.2e} none. Sigmoid nets get there:")
    for limit in (ARTICLE_GRADIENT, lost_below()):
        if deep := [depth for depth, size in tiny.items() if size < limit]:
            print(f"  below {limit:.1e} with {deep[0]} hidden layers: a weight of the first gets {tiny[deep[0]]:.1e}")


@styled
def draw(
    chains: Sequence[ChainGradients],
    learning: dict[int, Learning],
    tiny: dict[int, float],
    rows: Sequence[Run],
    path: Path,
) -> None:
    figure = new_figure(12, 8)
    panels = figure.subplots(2, 2)
    draw_chains(panels[0, 0], chains)
    draw_speeds(panels[0, 1], learning[4])
    draw_update(panels[1, 0], tiny)
    draw_cure(panels[1, 1], *rows)
    save(figure, path)


def draw_chains(axes: Axes, chains: Sequence[ChainGradients]) -> None:
    neurons = np.arange(1, 6)
    for chain, color in zip(chains, (VANISHING, EXPLODING), strict=True):
        axes.plot(neurons, chain.formula, color=color, label=f"product of w σ′(z), w = {chain.weight:g}")
        axes.plot(neurons, chain.measured, "o", color=color, label="measured by GradScope")
    axes.set(title="Five neurons in a row", xlabel="neuron", ylabel="∂C/∂b", yscale="log", xticks=neurons)
    axes.legend()


def draw_speeds(axes: Axes, learning: Learning) -> None:
    for layer, speed in enumerate(learning.speeds.T, start=1):
        axes.plot(learning.run.steps, speed, label=f"hidden layer {layer}")
    book = NIELSEN[learning.speeds.shape[1]]
    axes.plot([0] * len(book), book, "k*", clip_on=False, zorder=3, label="Nielsen, before training")
    axes.set(title="Four hidden layers of 30 sigmoids learn at different speeds", yscale="log")
    axes.set(xlabel="epoch of full-batch descent", ylabel="gradient norm of the bias")
    axes.legend()


def draw_update(axes: Axes, tiny: dict[int, float]) -> None:
    axes.plot(list(tiny), list(tiny.values()), "o-", color=VANISHING)
    new = updated(ARTICLE_GRADIENT, torch.float64)
    for gradient, text, side in (
        (ARTICLE_GRADIENT, f"here a weight of {ARTICLE_WEIGHT} becomes {new:.9f}", "bottom"),
        (lost_below(), f"below this {ARTICLE_WEIGHT} stays {ARTICLE_WEIGHT} in float32", "top"),
    ):
        axes.axhline(gradient, color="grey", linestyle="--")
        shift = 2 if side == "bottom" else -3
        axes.annotate(text, (1, gradient), (0, shift), textcoords="offset points", va=side, color="grey")
    axes.set(title="The deeper the net, the less its first layer learns", yscale="log", xticks=list(tiny))
    axes.set(xlabel="hidden layers of sigmoids", ylabel="gradient of a weight in the first layer (rms)")


def draw_cure(axes: Axes, exploding: Run, clipped: Run) -> None:
    for run, color, label in ((exploding, EXPLODING, "as it is"), (clipped, CURED, "clipped as advised")):
        loss = run.series("loss")
        axes.plot(run.steps, loss, color=color, label=label)
        if not np.isfinite(loss).all():
            lost = run.steps[np.argmin(np.isfinite(loss))]
            axes.axvline(lost, color=color, linestyle=":", label=f"NaN from step {lost}")
    axes.set(
        title="A recurrent net explodes, and is cured by clipping", yscale="log", xlabel="step", ylabel="loss (nats)"
    )
    axes.legend()


if __name__ == "__main__":
    main()
