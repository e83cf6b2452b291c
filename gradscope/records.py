"""The vocabulary: what was measured (`Metric`, `Layer`, `Record`, `Run`) and what it means (`Severity`, `Finding`)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

from gradscope.thresholds import Thresholds

Floats = npt.NDArray[np.float32]

LOSS = "loss"
TOTAL_NORM = "total_norm"
TOTAL_NORM_CLIPPED = "total_norm_clipped"
CLIP_COEFFICIENT = "clip_coefficient"
SKIPPED = "skipped"
NONFINITE_LOSS = "nonfinite_loss"
LOSS_SCALE = "loss_scale"
GLOBALS = (LOSS, TOTAL_NORM, TOTAL_NORM_CLIPPED, CLIP_COEFFICIENT, SKIPPED, NONFINITE_LOSS, LOSS_SCALE)
"""The measurements of a step that belong to no layer. The order is that on disk: names are only ever appended.

`loss` is the mean over the micro-batches of the step; `total_norm` and `total_norm_clipped` are the L2 norms of all
gradients before and after clipping; `clip_coefficient` is the second over the first (1: untouched); `skipped` is 1
where the optimizer was called but did not step; `nonfinite_loss` is 1 where the loss was NaN or infinite;
`loss_scale` is what a GradScaler multiplied the loss with.
"""


class NonFinite(IntFlag):
    """Where the metric `nonfinite` saw a NaN or an infinity: the flags of one layer and step are added up."""

    GRADIENT = 1
    WEIGHT = 2
    OUTPUT = 4


class Severity(IntEnum):
    """How bad a finding is. Ordered: ``Severity.INFO < Severity.WARNING < Severity.CRITICAL``."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Metric:
    """A column: something measured for each layer.

    `name` is the key everywhere, `title` what a person reads, `unit` one of ``"L2 norm"``, ``"ratio"``,
    ``"fraction"``, ``"value"`` and ``"flags"``. `healthy` maps a kind of layer to the closed range in which
    a sound layer of that kind stays; kinds without a stated range are absent.
    """

    name: str
    title: str
    unit: str
    healthy: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A row: a module that owns parameters, or an activation.

    `name` is that of `named_modules()` without the prefixes of wrappers (a module called several times in one
    forward has a row for each call: ``act``, ``act#2``), `type` the class's name, `kind` one of the
    `gradscope.activations` kinds or ``convolution``, ``linear``, ``normalization``, ``embedding``,
    ``recurrent``, ``attention``, ``parameters``.
    """

    name: str
    type: str
    kind: str


@dataclass(frozen=True, eq=False)
class Record:
    """The measurements of one step.

    `step` is the x-axis of Lightning's loggers: the number of batches after which an optimizer had stepped before.
    `metrics` maps a metric's name to float32[len(layers)]; NaN where the layer has no such metric or it was not
    measured. `globals` maps names of `GLOBALS` to numbers; what was not measured is absent.
    """

    step: int
    wall_time: float
    layers: tuple[Layer, ...]
    metrics: Mapping[str, Floats]
    globals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Coverage:
    """What was measured, and what was not.

    `unseen` maps a layer, a module or a measurement to the reason why it is not; `measured` what there is to measure,
    ``"activation modules"`` say, to how many are.
    """

    unseen: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Flight:
    """The steps before a disaster, every one of them: what the flight recorder held when a critical finding appeared.

    `steps` is int64[K]; `loss` float64[K]; `grad_norm` float32[K, L], unscaled and before clipping, estimated from 256
    elements of the weight of each of `layers`, which are L names: all layers, or 16 spread over the depth. NaN where
    there was no such number.
    """

    steps: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]
    layers: tuple[str, ...]
    grad_norm: Floats


@dataclass(frozen=True)
class Origin:
    """Where the first NaN or infinity of a run was born.

    `step` as in `Record`; `module` a name, empty for what runs outside of any module; `direction` is ``"forward"``,
    ``"backward"``, ``"weight"`` or ``"batch"``; `operation` the name of the operation as autograd knows it, where it is
    known.
    """

    step: int
    module: str
    direction: str
    operation: str = ""


@dataclass(frozen=True)
class InitialWeights:
    """The weights of a layer that feeds a SELU, before the first step: `weights` numbers for `units` units.

    `omega` is the sum and `tau` the sum of the squares of the weights of a unit, each as a mean over the units
    (Klambauer et al. 2017, section "Normalization and SNNs"). LeCun-normal weights have ω = 0 and τ = 1 but for the
    draw.
    """

    layer: str
    omega: float
    tau: float
    weights: int
    units: int


@dataclass(frozen=True)
class InputMoments:
    """Mean and variance of what `layer` was given in the first batch, over all its elements (of a sample of them)."""

    layer: str
    mean: float
    variance: float


@dataclass(frozen=True)
class SaturatingStack:
    """Bounded activations in a chain: nothing between them but weight layers and what passes a gradient on as it is.

    `layers` are the activations from the input on. `gradient_gain` is the factor on the gradient norm from the output
    of the last to the input of the first: the steepest slope of each, and √τ of each weight layer between (τ as in
    `InitialWeights`), which for random weights is what a layer multiplies it with.
    """

    layers: tuple[str, ...]
    gradient_gain: float


@dataclass(frozen=True)
class OutputActivation:
    """What made the logits that a cross-entropy was given: an activation `layer` of class or function `type`.

    `classes` is their number; 0 where it is not known, or where each logit is a decision of its own.
    """

    layer: str
    type: str
    classes: int = 0


@dataclass(frozen=True)
class Setup:
    """What the model and the Trainer are before the first step. What is not known for certain is left empty.

    `selu_weights` are the layers that feed a SELU directly, if the fit began from scratch and none looks trained;
    `selu_input` is what the first of them was given, if it is the first weight layer of all; `plain_dropouts` maps a
    Dropout behind a SELU to its probability; `normalized_selus` are SELUs right behind batch normalization.
    `in_no_optimizer` are layers that take part in the loss and whose trainable parameters no optimizer has;
    `never_called` are trainable layers with no part in the first forward.
    """

    selu_weights: tuple[InitialWeights, ...] = ()
    selu_input: InputMoments | None = None
    plain_dropouts: Mapping[str, float] = field(default_factory=dict)
    normalized_selus: tuple[str, ...] = ()
    saturating_stack: SaturatingStack | None = None
    output_activation: OutputActivation | None = None
    in_no_optimizer: tuple[str, ...] = ()
    never_called: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """Every step of an optimizer in the fit, recorded or not: how many there were, and how many did not happen.

    A GradScaler skips a step whose gradients overflowed.
    """

    steps: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Stop:
    """That GradScope ended the fit, as `on_finding` told it to: after which `step`, and for which finding's `code`."""

    step: int
    code: str


@dataclass(frozen=True)
class Overhead:
    """What GradScope cost: seconds on the host inside GradScope, of the seconds that the fit took until then.

    `every_n_steps` is the interval of records, in steps: 0 where it is not known.
    """

    records: int = 0
    gradscope_seconds: float = 0.0
    fit_seconds: float = 0.0
    every_n_steps: int = 0


@dataclass(frozen=True, eq=False)
class Run:
    """Records stacked: what rules, reports and the dashboard look at.

    `steps` is int64[S], strictly increasing; `wall_times` float64[S]; `layers` has L rows in order of first
    execution; `metrics` maps a name to float32[S, L], NaN where not measured; `columns` describes those metrics;
    `globals` maps a name to float64[S]. A run without records has S = 0. `flights` maps the
    code of a critical finding to the steps before it appeared. `stop` is None where GradScope did not end the fit.
    `notes` says what was wrong with the log that it was
    read from, a sentence each.
    """

    name: str
    steps: npt.NDArray[np.int64]
    wall_times: npt.NDArray[np.float64]
    layers: tuple[Layer, ...]
    metrics: Mapping[str, Floats]
    columns: tuple[Metric, ...]
    globals: Mapping[str, npt.NDArray[np.float64]]
    thresholds: Thresholds = field(default_factory=Thresholds)
    coverage: Coverage = field(default_factory=Coverage)
    overhead: Overhead = field(default_factory=Overhead)
    ledger: Ledger = field(default_factory=Ledger)
    setup: Setup = field(default_factory=Setup)
    origin: Origin | None = None
    flights: Mapping[str, Flight] = field(default_factory=dict)
    stop: Stop | None = None
    notes: tuple[str, ...] = ()

    def metric(self, name: str) -> Floats:
        """Return metric `name` as float32[S, L]: all NaN where the run has no such metric."""
        if name in self.metrics:
            return self.metrics[name]
        return np.full((len(self.steps), len(self.layers)), np.nan, dtype=np.float32)

    def series(self, name: str) -> npt.NDArray[np.float64]:
        """Return the step's global `name` as float64[S]: all NaN where the run has no such global."""
        return self.globals.get(name, np.full(len(self.steps), np.nan))

    def rows(self, *kinds: str) -> npt.NDArray[np.int64]:
        """Return the indices of the layers of any of `kinds`, in order: int64[n]."""
        return np.array([i for i, layer in enumerate(self.layers) if layer.kind in kinds], dtype=np.int64)

    @classmethod
    def from_records(
        cls,
        name: str,
        records: Sequence[Record],
        columns: Sequence[Metric],
        **rest: Any,
    ) -> "Run":
        """Stack `records`, in order of steps; of two with the same step the later wall time wins.

        The layers are those of the last record, then those that only earlier records have. An empty sequence
        gives a run with S = L = 0. `rest` are further fields of `Run`.
        """
        latest = {r.step: r for r in sorted(records, key=lambda r: r.wall_time)}
        ordered = [latest[step] for step in sorted(latest)]
        layers = _union(r.layers for r in reversed(ordered))
        row = {layer.name: i for i, layer in enumerate(layers)}
        metrics = {c.name: np.full((len(ordered), len(layers)), np.nan, dtype=np.float32) for c in columns}
        # By identity: records share a tuple while their layers are the same, and hashing it costs more than reading.
        known: dict[int, npt.NDArray[np.int64]] = {}
        for s, record in enumerate(ordered):
            if id(record.layers) not in known:
                known[id(record.layers)] = np.array([row[layer.name] for layer in record.layers], dtype=np.int64)
            for metric, values in record.metrics.items():
                metrics[metric][s, known[id(record.layers)]] = values
        return cls(
            name=name,
            steps=np.array([r.step for r in ordered], dtype=np.int64),
            wall_times=np.array([r.wall_time for r in ordered], dtype=np.float64),
            layers=layers,
            metrics=metrics,
            columns=tuple(columns),
            globals={g: np.array([r.globals.get(g, math.nan) for r in ordered], dtype=np.float64) for g in GLOBALS},
            **rest,
        )


@dataclass(frozen=True)
class Finding:
    """One disease with one cause: what happened, where, since when, and what to change.

    `layers` are names, the worst first; empty means the whole net. `evidence` holds the numbers behind the message.
    `cause` is the code of the finding that this one follows from, if there is one: cure that first.
    """

    code: str
    severity: Severity
    layers: tuple[str, ...]
    first_step: int
    last_step: int
    message: str
    hint: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    cause: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as what JSON can hold; a number that is not finite becomes ``"nan"``, ``"inf"``."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "layers": list(self.layers),
            "first_step": self.first_step,
            "last_step": self.last_step,
            "message": self.message,
            "hint": self.hint,
            "evidence": {k: v if math.isfinite(v) else str(v) for k, v in self.evidence.items()},
            "cause": self.cause,
        }


def _union(layer_sets: Iterable[tuple[Layer, ...]]) -> tuple[Layer, ...]:
    union: dict[str, Layer] = {}
    for layers in {id(layers): layers for layers in layer_sets}.values():
        for layer in layers:
            union.setdefault(layer.name, layer)
    return tuple(union.values())
