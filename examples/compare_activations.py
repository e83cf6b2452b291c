"""The same CNN with six activation functions, everything else constant: which ones learn, and what their gradients do.

Trains one run for each activation and seed into one log directory, draws loss and accuracy over the epochs, with and
without sigmoid, and prints a table. What an earlier call finished with the same settings is not trained again, and
Ctrl-C shows what is finished.
"""

import json
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytorch_lightning as pl
from activation_cnn import ACTIVATIONS, MNISTClassifier
from experiment import (
    build_trainer,
    command_line,
    device_name,
    fit,
    load_data,
    measure_accuracy,
    quiet_lightning,
    writable,
)
from figures import COLORS, new_figure, save, styled
from matplotlib.axes import Axes
from mnist_data import MNISTDataModule
from pytorch_lightning.callbacks import Timer
from rich.console import Console
from rich.progress import Progress, TaskID, TimeRemainingColumn
from rich.table import Table

from gradscope import GradScope, Run, diagnose, load
from gradscope.activations import SELF_NORMALIZING

FAST_EPOCHS, FAST_EXAMPLES = 3, 1024


@dataclass(frozen=True)
class Result:
    """A finished training: its settings, the curves over its epochs, and what it reached.

    Losses are mean cross-entropies in nats, accuracies fractions, `seconds` those of an epoch of training.
    """

    activation: str
    settings: dict[str, Any]
    val_loss: list[float]
    val_accuracy: list[float]
    test_accuracy: float
    seconds: float
    device: str


class Curves(pl.Callback):
    """Loss and accuracy on the validation images after each epoch."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {"val_loss": [], "val_accuracy": []}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, curve in self.values.items():
            curve.append(trainer.callback_metrics[name].item())


class Steps(pl.Callback):
    """Moves one bar for the whole comparison."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def on_train_batch_end(self, *_: object) -> None:
        self.progress.advance(self.task)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quiet_lightning()
    writable(options.logdir)
    data = load_data(options.data_dir, limit=FAST_EXAMPLES if options.fast else None)
    try:
        train_all(options, data)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on with the run that was cut off. Finished so far:")
    results = finished(options, data)
    if not results:
        raise SystemExit("no run is finished yet: nothing to show")
    draw(results, options.logdir / "compare_activations.png")
    Console().print(table(results, load(options.logdir), data.dataset.name))


def parse(arguments: Sequence[str] | None) -> Namespace:
    parser = command_line(__doc__, "compare_activations")
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=list(ACTIVATIONS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=10, help=f"passes over the images ({FAST_EPOCHS} with --fast)")
    parser.add_argument("--seeds", type=int, default=1, help="runs for each activation; more than one give a spread")
    options = parser.parse_args(arguments)
    options.epochs = FAST_EPOCHS if options.fast else options.epochs
    for name in ("epochs", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"`--{name}` must be at least 1, got {getattr(options, name)}")
    return options


def runs_of(options: Namespace) -> Iterable[tuple[int, str]]:
    """All activations with the first seed, then with the next: an early end still compares all six."""
    return product(range(options.seed, options.seed + options.seeds), options.activations)


def folder_of(options: Namespace, seed: int, activation: str) -> Path:
    return Path(options.logdir, activation, f"seed_{seed}")


def result_file(options: Namespace, seed: int, activation: str) -> Path:
    return folder_of(options, seed, activation) / "result.json"


def settings_of(options: Namespace, data: MNISTDataModule, seed: int) -> dict[str, Any]:
    return {"epochs": options.epochs, "seed": seed, "data": data.dataset.name, "examples": len(data.dataset.train[1])}


def train_all(options: Namespace, data: MNISTDataModule) -> None:
    steps = options.epochs * len(data.train_dataloader())
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(elapsed_when_finished=True)) as progress:
        task = progress.add_task("", total=steps * options.seeds * len(options.activations))
        for seed, activation in runs_of(options):
            progress.update(task, description=f"{activation}, seed {seed}")
            if read(options, data, seed, activation) is None:
                train(options, data, seed, activation, Steps(progress, task))
            else:
                progress.advance(task, steps)


def train(options: Namespace, data: MNISTDataModule, seed: int, activation: str, steps: Steps) -> None:
    folder = folder_of(options, seed, activation)
    result_file(options, seed, activation).unlink(missing_ok=True)  # of other settings; its log goes now
    pl.seed_everything(seed, verbose=False)
    data.seed = seed
    model, curves, timer = MNISTClassifier(activation), Curves(), Timer()
    scope = GradScope(on_finding="ignore", summary=False)
    trainer = build_trainer(folder, scope, [curves, timer, steps], max_epochs=options.epochs)
    fit(trainer, model, data)
    accuracy = measure_accuracy(trainer, model, data)
    result = Result(
        activation,
        settings_of(options, data, seed),
        **curves.values,
        test_accuracy=accuracy,
        seconds=timer.time_elapsed("train") / options.epochs,
        device=device_name(trainer),
    )
    result_file(options, seed, activation).write_text(json.dumps(asdict(result)))


def read(options: Namespace, data: MNISTDataModule, seed: int, activation: str) -> Result | None:
    """Return the finished run of these settings, None where there is none."""
    try:
        result = Result(**json.loads(result_file(options, seed, activation).read_text()))
    except FileNotFoundError:
        return None
    return result if result.settings == settings_of(options, data, seed) else None


def finished(options: Namespace, data: MNISTDataModule) -> list[Result]:
    found = (read(options, data, seed, activation) for seed, activation in runs_of(options))
    return [result for result in found if result is not None]


@styled
def draw(results: Sequence[Result], path: Path) -> None:
    figure = new_figure(10, 7)
    axes = figure.subplots(2, 2, sharex=True)
    without_sigmoid = [result for result in results if result.activation != "sigmoid"]
    for column, (shown, title) in enumerate([(results, "all activations"), (without_sigmoid, "without sigmoid")]):
        for row, (curve, label) in enumerate([("val_loss", "loss (nats)"), ("val_accuracy", "accuracy")]):
            curves(axes[row, column], shown, curve)
            axes[row, column].set(ylabel=f"validation {label}", title=title if row == 0 else "")
        axes[1, column].set_xlabel("epoch")
    axes[0, 0].legend()
    save(figure, path)


def curves(axes: Axes, results: Sequence[Result], name: str) -> None:
    """Draw a line for each activation: the mean over its seeds, and a band from the least to the greatest."""
    for activation in dict.fromkeys(result.activation for result in results):
        values = np.array([getattr(result, name) for result in results if result.activation == activation])
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.mean(0), ".-", color=COLORS[activation], label=activation)
        axes.fill_between(epochs, values.min(0), values.max(0), color=COLORS[activation], alpha=0.15, linewidth=0)


def table(results: Sequence[Result], runs: dict[str, Run], dataset: str) -> Table:
    settings = results[0].settings
    shown = Table(
        title=f"{settings['epochs']} epochs of {dataset}, {settings['examples']:,} examples, {results[0].device}"
    )
    for heading in ("activation", "test accuracy", "s/epoch", "gradient over depth", "dead units", "SELU bounds"):
        shown.add_column(heading, justify="left" if heading == "activation" else "right")
    shown.add_column("verdict")
    for activation in dict.fromkeys(result.activation for result in results):
        of_it = [result for result in results if result.activation == activation]
        run = runs[f"{activation}/seed_{of_it[0].settings['seed']}"]
        shown.add_row(
            activation,
            spread([100 * result.test_accuracy for result in of_it]),
            f"{fmean(result.seconds for result in of_it):.1f}",
            gradient_range(run),
            dead_units(run),
            selu_bounds(run),
            ", ".join(f"{finding.severity}: {finding.code}" for finding in diagnose(run)) or "no disease",
        )
    return shown


def spread(percents: Sequence[float]) -> str:
    deviation = f" ± {stdev(percents):.2f}" if len(percents) > 1 else ""
    return f"{fmean(percents):.2f}{deviation} %"


def gradient_range(run: Run) -> str:
    """How many times the largest gradient norm of a layer is the smallest: medians of the first and last records."""
    norms = run.metric("grad_norm")[:, run.rows("convolution", "linear")]
    first, last = (np.median(part, axis=0) for part in (norms[:10], norms[-10:]))
    with np.errstate(divide="ignore"):  # a layer without any gradient: ×inf
        return f"×{first.max() / first.min():.0f} → ×{last.max() / last.min():.0f}"


def dead_units(run: Run) -> str:
    """The share in the layer that has most of them at the end; only rectifiers can have any."""
    fractions = run.metric("dead_fraction")[-1]
    return f"{np.nanmax(fractions):.0%}" if np.isfinite(fractions).any() else "–"


def selu_bounds(run: Run) -> str:
    """How many SELU layers were inside the stated bounds of mean and variance, in the first record and in the last."""
    rows = run.rows(SELF_NORMALIZING)
    if not len(rows):
        return "–"
    inside = np.ones((len(run.steps), len(rows)), dtype=bool)
    for column in run.columns:
        if column.name in ("act_mean", "act_var"):
            low, high = column.healthy[SELF_NORMALIZING]
            values = run.metric(column.name)[:, rows]
            inside &= (values >= low) & (values <= high)
    counts = inside.sum(axis=1)
    return f"{counts[0]} → {counts[-1]} of {len(rows)}"


if __name__ == "__main__":
    main()
