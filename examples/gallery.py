"""Every finding of GradScope in one picture: a net that has the disease, and the same net cured.

Twelve small nets are made ill on purpose and trained on MNIST for some seconds, each beside its cure. What is drawn is
the number that gives the disease away; what GradScope says of each is printed.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from activation_cnn import lecun_normal_
from classifier import Classifier
from experiment import build_trainer, command_line, fit, load_data, quiet_lightning, writable
from figures import GREEN, VERMILION, new_figure, save, styled
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from mlp import MLP, PIXELS
from mnist_data import MNISTDataModule
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gradscope import Finding, GradScope, Run, Severity, Thresholds

EXAMPLES, STEPS, FAST_STEPS = 2048, 200, 60
SICK, CURED = VERMILION, GREEN
LIMITS = Thresholds()

Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def adam(lr: float) -> Optimize:
    return lambda network: torch.optim.Adam(network.parameters(), lr=lr)


def sgd(lr: float) -> Optimize:
    return lambda network: torch.optim.SGD(network.parameters(), lr=lr)


def first_layer_slow(network: nn.Module) -> torch.optim.Optimizer:
    """Adam, but for a learning rate of the first layer that has a typing error: 1e-9 in place of 1e-3."""
    first, *rest = (module.parameters() for module in network.modules() if isinstance(module, nn.Linear))
    others = [{"params": parameters, "lr": 1e-3} for parameters in rest]
    return torch.optim.Adam([{"params": first, "lr": 1e-9}, *others])


class Patient(Classifier):
    """A classifier with the optimizer, and the options of the Trainer, that make it ill or cure it."""

    def __init__(self, network: nn.Module, optimize: Optimize | None = None, **trainer_options: Any) -> None:
        super().__init__(network)
        self.optimize = optimize or adam(1e-3)
        self.trainer_options = trainer_options

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimize(self.network)


class Detached(nn.Module):
    """Keeps the gradient from what comes before, as an array library in the middle of a forward would."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Standardized(nn.Module):
    """What `LayerNorm` does, but with no ε below the fraction: features that are all alike, all zero say, give 0/0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True)


def net(activation: str, depth: int, gain: float | None = None, bias: float = 0.0, width: int = 64) -> MLP:
    """An MLP; with a `gain`, weights are drawn from N(0, gain² / fan_in) and the hidden biases are `bias`."""
    network = MLP(activation, [width] * depth)
    for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
        if gain is not None:
            lecun_normal_(layer)
            layer.weight.data *= gain
            nn.init.constant_(layer.bias, bias if layer.out_features == width else 0.0)
    return network


def normalized(normalization: nn.Module) -> nn.Sequential:
    """Four rectified features, normalised: for some image all four are zero, sooner or later."""
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 4), nn.ReLU(), normalization, nn.Linear(4, 10))


@dataclass(frozen=True)
class Case:
    """A disease and its cure, and the picture that gives it away: `values` of a run, over depth or over steps."""

    code: str
    sick: Callable[[], Patient]
    cured: Callable[[], Patient]
    cure: str
    label: str
    values: Callable[[Run], npt.NDArray[Any]]
    over: str = "step"
    limits: tuple[float, ...] = ()
    log: bool = False


HE = 2**0.5
"""The gain that keeps the size of a signal through ReLUs (He et al. 2015)."""


def over_depth(metric: str, *kinds: str) -> Callable[[Run], npt.NDArray[Any]]:
    """The first record, for each layer of `kinds` in order of depth."""
    return lambda run: run.metric(metric)[0, run.rows(*kinds)]


def worst(metric: str, of: Callable[..., npt.NDArray[Any]] = np.nanmax) -> Callable[[Run], npt.NDArray[Any]]:
    """The greatest value of all layers (or what `of` takes), for each record."""
    return lambda run: of(run.metric(metric)[:, np.isfinite(run.metric(metric)).any(axis=0)], axis=1)


def unevenness(run: Run) -> npt.NDArray[Any]:
    """How many times as fast as the slowest layer the fastest one learns, for each record."""
    ratios = run.metric("update_ratio")[:, run.rows("linear")]
    return np.asarray(ratios.max(axis=1) / ratios.min(axis=1))


def tau(run: Run) -> npt.NDArray[Any]:
    """The sum of the squares of the weights of a unit, for each layer before a SELU."""
    return np.array([weights.tau for weights in run.setup.selu_weights])


CASES = (
    Case(
        "vanishing_gradient",
        lambda: Patient(net("sigmoid", 10)),
        lambda: Patient(net("relu", 10, gain=HE)),
        "ReLU in place of sigmoid",
        "gradient norm",
        over_depth("grad_norm", "linear"),
        over="layer",
        log=True,
    ),
    Case(
        "exploding_gradient",
        lambda: Patient(net("relu", 12, gain=2.5 * HE)),
        lambda: Patient(net("relu", 12, gain=HE)),
        "initialise for ReLU",
        "gradient norm",
        over_depth("grad_norm", "linear"),
        over="layer",
        log=True,
    ),
    Case(
        "dead_relu",
        lambda: Patient(net("relu", 3, gain=HE, bias=-5.0)),
        lambda: Patient(net("relu", 3, gain=HE)),
        "biases of zero",
        "dead units, worst layer",
        worst("dead_fraction"),
        limits=(LIMITS.dead_fraction,),
    ),
    Case(
        "saturated_activation",
        lambda: Patient(net("sigmoid", 2, gain=50.0)),
        lambda: Patient(net("sigmoid", 2, gain=1.0)),
        "weights of a fiftieth",
        "outputs at a limit, worst layer",
        worst("saturated_fraction"),
        limits=(LIMITS.saturated_fraction,),
    ),
    Case(
        "selu_drift",
        lambda: Patient(net("selu", 8, gain=HE)),
        lambda: Patient(net("selu", 8, gain=1.0)),
        "LeCun-normal weights",
        "variance of the outputs",
        over_depth("act_var", "self_normalizing"),
        over="layer",
        limits=LIMITS.selu_variance,
        log=True,
    ),
    Case(
        "selu_misconfigured",
        lambda: Patient(net("selu", 8)),
        lambda: Patient(net("selu", 8, gain=1.0)),
        "LeCun-normal weights",
        "τ of the weights before a SELU",
        tau,
        over="layer",
        limits=LIMITS.selu_tau,
    ),
    Case(
        "no_gradient",
        lambda: Patient(nn.Sequential(net("gelu", 2), nn.GELU(), Detached(), nn.Linear(10, 10))),
        lambda: Patient(nn.Sequential(net("gelu", 2), nn.GELU(), nn.Linear(10, 10))),
        "without the detach",
        "parameters without gradient",
        over_depth("no_gradient_fraction", "linear"),
        over="layer",
    ),
    Case(
        "non_finite",
        lambda: Patient(normalized(Standardized())),
        lambda: Patient(normalized(nn.LayerNorm(4))),
        "LayerNorm, which has an ε",
        "loss (nats)",
        lambda run: run.series("loss"),
    ),
    Case(
        "update_ratio_high",
        lambda: Patient(net("gelu", 3), adam(0.5)),
        lambda: Patient(net("gelu", 3), adam(1e-3)),
        "a learning rate of 1e-3",
        "update ratio, fastest layer",
        worst("update_ratio"),
        limits=(LIMITS.update_ratio_high,),
        log=True,
    ),
    Case(
        "update_ratio_low",
        lambda: Patient(net("gelu", 3), sgd(1e-7)),
        lambda: Patient(net("gelu", 3), sgd(0.1)),
        "a learning rate of 0.1",
        "update ratio, fastest layer",
        worst("update_ratio"),
        limits=(LIMITS.update_ratio_low,),
        log=True,
    ),
    Case(
        "uneven_learning_speed",
        lambda: Patient(net("gelu", 3, width=8), first_layer_slow),
        lambda: Patient(net("gelu", 3, width=8), adam(1e-3)),
        "one learning rate for all",
        "update ratio, fastest / slowest",
        unevenness,
        limits=(LIMITS.uneven_ratio,),
        log=True,
    ),
    Case(
        "clipping_dominates",
        lambda: Patient(net("gelu", 3), sgd(0.1), gradient_clip_val=0.005),
        lambda: Patient(net("gelu", 3), sgd(0.1), gradient_clip_val=5.0),
        "clip at 5, not at 0.005",
        "clip coefficient",
        lambda run: run.series("clip_coefficient"),
        limits=(LIMITS.clip_coefficient,),
        log=True,
    ),
)


@dataclass(frozen=True)
class Examined:
    """A case after both trainings, with what GradScope found in the sick net and in the cured one."""

    case: Case
    sick: Run
    cured: Run
    findings: tuple[Finding, ...]
    after_cure: tuple[Finding, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quiet_lightning()
    writable(options.logdir)
    data = load_data(options.data_dir, limit=EXAMPLES)
    try:
        examined = [examine(case, data, options) for case in CASES]
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: the gallery is drawn when all its nets are trained.") from None
    Console().print(table(examined))
    draw(examined, options.logdir / "gallery.png")


def parse(arguments: Sequence[str] | None) -> Namespace:
    return command_line(__doc__, "gallery").parse_args(arguments)


def examine(case: Case, data: MNISTDataModule, options: Namespace) -> Examined:
    (sick, findings), (cured, after_cure) = (
        train(build, data, Path(options.logdir, case.code, name), options)
        for name, build in (("sick", case.sick), ("cured", case.cured))
    )
    return Examined(case, sick, cured, findings, after_cure)


def train(
    build: Callable[[], Patient], data: MNISTDataModule, folder: Path, options: Namespace
) -> tuple[Run, tuple[Finding, ...]]:
    pl.seed_everything(options.seed, verbose=False)
    data.seed = options.seed
    patient, scope = build(), GradScope(on_finding="ignore", summary=False, log={"tensors"})
    steps = FAST_STEPS if options.fast else STEPS
    settings: Mapping[str, Any] = {"max_steps": steps, "limit_val_batches": 0, **patient.trainer_options}
    fit(build_trainer(folder, scope, **settings), patient, data)
    return scope.run, tuple(finding for finding in scope.findings if finding.severity >= Severity.WARNING)


def table(examined: Sequence[Examined]) -> Table:
    shown = Table(title="What GradScope says of each")
    for heading in ("made ill with", "found", "cure", "found after it"):
        shown.add_column(heading, overflow="fold")
    for one in examined:
        found, after = (
            ", ".join(finding.code for finding in findings) or "nothing" for findings in (one.findings, one.after_cure)
        )
        shown.add_row(one.case.code, found, one.case.cure, after)
    return shown


@styled
def draw(examined: Sequence[Examined], path: Path) -> None:
    figure = new_figure(12, 11)
    for axes, one in zip(figure.subplots(4, 3).flat, examined, strict=True):
        panel(axes, one)
    save(figure, path)


def panel(axes: Axes, one: Examined) -> None:
    """Draw the sick net and the cured one, and the limits that GradScope judges by."""
    case = one.case
    for run, color, name in ((one.sick, SICK, "sick"), (one.cured, CURED, f"cured: {case.cure}")):
        values = case.values(run)
        x = run.steps if case.over == "step" else np.arange(1, len(values) + 1)
        axes.plot(x, values, ".-", color=color, label=name)
        if lost := [step for step, value in zip(x, values, strict=True) if not np.isfinite(value)]:
            axes.axvline(lost[0], color=color, linestyle=":", label=f"not finite from {case.over} {lost[0]}")
    for i, limit in enumerate(case.limits):
        axes.axhline(limit, color="grey", linestyle="--", linewidth=1, label="GradScope's limit" if i == 0 else None)
    if case.log:
        axes.set_yscale("log")
    if case.over == "layer":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=case.code, xlabel=case.over, ylabel=case.label)
    axes.legend(fontsize=7.5)


if __name__ == "__main__":
    main()
