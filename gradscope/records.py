"""The vocabulary: what was measured (`Metric`, `Layer`, `Record`, `Run`) and what it means (`Severity`, `Finding`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradscope.stacking import Block, stacked
from gradscope.thresholds import Thresholds

if TYPE_CHECKING:
    import pandas

Floats = npt.NDArray[np.float32]
"""What is measured, and logged."""

Float64s = npt.NDArray[np.float64]
"""What is computed with it."""

Mask = npt.NDArray[np.bool_]

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
    """In the gradient of one of the layer's parameters."""
    WEIGHT = 2
    """In one of the layer's parameters, before the optimizer's step."""
    OUTPUT = 4
    """In what the layer gave out in the forward."""


class Severity(IntEnum):
    """How bad a finding is. Ordered: ``Severity.INFO < Severity.WARNING < Severity.CRITICAL``."""

    INFO = 1
    """A remark: odd, and worth to know, but no harm is seen to come of it."""
    WARNING = 2
    """Training suffers."""
    CRITICAL = 3
    """Training does not work."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Metric:
    """A column: something measured for each layer."""

    name: str
    """The key everywhere: in `Run.metrics`, in the log, on the command line."""
    title: str
    """What a person reads."""
    unit: str
    """One of ``"L2 norm"``, ``"ratio"``, ``"fraction"``, ``"value"`` and ``"flags"``."""
    healthy: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By kind of layer, the closed range in which a sound layer stays; kinds without a stated range are absent."""


@dataclass(frozen=True)
class Layer:
    """A row: a module that owns parameters, or an activation."""

    name: str
    """As in `named_modules()`, without the prefixes of wrappers. A module called several times in one forward has a
    row for each call: ``act``, ``act#2``."""
    type: str
    """The name of the class, or of the function that was called."""
    kind: str
    """What it does: of activations ``rectifier``, ``saturating``, ``self_normalizing`` or ``smooth``, else
    ``convolution``, ``linear``, ``normalization``, ``embedding``, ``recurrent``, ``attention`` or ``parameters``."""


@dataclass(frozen=True, eq=False)
class Record:
    """The measurements of one step."""

    step: int
    """As on the x-axis of Lightning's loggers: the number of batches after which an optimizer had stepped before."""
    wall_time: float
    """When it was taken, in seconds since 1970."""
    layers: tuple[Layer, ...]
    """The rows of the metrics, in order of first execution."""
    metrics: Mapping[str, Floats]
    """By the name of the metric, float32[len(layers)]; NaN where the layer has no such metric or it was not
    measured."""
    globals: Mapping[str, float] = field(default_factory=dict)
    """By the names of `gradscope.records.GLOBALS`, what belongs to no layer; what was not measured is absent."""


@dataclass(frozen=True)
class Coverage:
    """What was measured, and what was not."""

    unseen: Mapping[str, str] = field(default_factory=dict)
    """Layers, modules and measurements that are missing, each with the reason."""
    measured: Mapping[str, int] = field(default_factory=dict)
    """By what there is to measure, ``"activation modules"`` say, how many are."""


@dataclass(frozen=True, eq=False)
class Flight:
    """The steps before a disaster, every one: what the flight recorder held when a critical finding appeared."""

    steps: npt.NDArray[np.int64]
    """int64[K], strictly increasing."""
    loss: npt.NDArray[np.float64]
    """float64[K], NaN where there was none."""
    layers: tuple[str, ...]
    """L names: all layers with a weight, or of each optimizer 4 that are spread over the depth."""
    grad_norm: Floats
    """float32[K, L]: L2 norms of the gradients of the layers' weights, unscaled and before clipping, from about 256
    elements of each; NaN where there was no such number."""


@dataclass(frozen=True)
class Origin:
    """Where the first NaN or infinity of a run was born."""

    step: int
    """Counted as in `Record.step`; it need not be a recorded one."""
    module: str
    """The name of the module, empty for what runs outside of any."""
    direction: str
    """``"forward"``, ``"backward"``, ``"weight"`` or ``"batch"``: what held it first."""
    operation: str = ""
    """The name of the operation as autograd knows it; empty where it is not known."""
    rank: int | None = None
    """On which of several ranks; None for a process that trains alone."""


@dataclass(frozen=True)
class RankOutlier:
    """That one rank of several is unlike the others, of which `others` is told together."""

    rank: int
    """As torch.distributed numbers them."""
    layer: str
    """The name of the layer."""
    metric: str
    """The name of the metric."""
    value: float
    """What that rank measured when it was seen last."""
    others: float
    """What the others measured at that time."""
    first_step: int
    """Where it was seen first, counted as in `Record.step`."""
    last_step: int
    """Where it was seen last."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights of a layer that feeds a SELU, before the first step.

    LeCun-normal weights have ω = 0 and τ = 1 but for the draw (Klambauer et al. 2017, section "Normalization and
    SNNs").
    """

    layer: str
    """Its name."""
    omega: float
    """ω: the sum of the weights of a unit, as a mean over the units."""
    tau: float
    """τ: the sum of the squares of the weights of a unit, as a mean over the units."""
    weights: int
    """How many numbers the weight holds."""
    units: int
    """How many units these are for: features, or channels of a convolution."""


@dataclass(frozen=True)
class InputMoments:
    """Mean and variance of what a layer was given in the first batch, over all its elements (of a sample of them)."""

    layer: str
    """Its name."""
    mean: float
    """Of the elements, in their own unit."""
    variance: float
    """Of the elements, population variance."""


@dataclass(frozen=True)
class SaturatingStack:
    """Bounded activations in a chain: nothing between them but weight layers and what passes a gradient on as it is."""

    layers: tuple[str, ...]
    """The names of the activations, from the input on."""
    gradient_gain: float
    """The factor on the gradient norm from the output of the last to the input of the first: the steepest slope of
    each, and √τ of each weight layer between (`InitialWeights.tau`), which for random weights is what a layer
    multiplies it with."""


@dataclass(frozen=True)
class OutputActivation:
    """The activation that made the logits which a cross-entropy was given."""

    layer: str
    """Its name."""
    type: str
    """Its class or function."""
    classes: int = 0
    """The number of classes; 0 where it is not known, or where each logit is a decision of its own."""


@dataclass(frozen=True)
class Setup:
    """What the model and the Trainer are before the first step. What is not known for certain is left empty."""

    selu_weights: tuple[InitialWeights, ...] = ()
    """The layers that feed a SELU directly, if the fit began from scratch and none looks trained."""
    selu_input: InputMoments | None = None
    """What the first of them was given, if it is the first weight layer of all."""
    plain_dropouts: Mapping[str, float] = field(default_factory=dict)
    """By its name, the probability of each plain Dropout behind a SELU."""
    normalized_selus: tuple[str, ...] = ()
    """The names of SELUs right behind batch normalization."""
    saturating_stack: SaturatingStack | None = None
    """The longest chain of bounded activations."""
    output_activation: OutputActivation | None = None
    """What stands, and should not, between the last weight layer and a cross-entropy."""
    in_no_optimizer: tuple[str, ...] = ()
    """The names of layers that take part in the loss and whose trainable parameters no optimizer has."""
    never_called: tuple[str, ...] = ()
    """The names of trainable layers with no part in the first forward."""


@dataclass(frozen=True)
class Ledger:
    """Every step of an optimizer in the fit, recorded or not."""

    steps: int = 0
    """How many there were."""
    skipped: int = 0
    """How many did not happen: a GradScaler skips a step whose gradients overflowed."""


@dataclass(frozen=True)
class Stop:
    """That GradScope ended the fit, as its option `on_finding` told it to."""

    step: int
    """After which step, counted as in `Record.step`."""
    code: str
    """For which finding: `Finding.code`."""


@dataclass(frozen=True)
class Overhead:
    """What GradScope cost."""

    records: int = 0
    """How many records were taken."""
    gradscope_seconds: float = 0.0
    """Seconds on the host inside GradScope, but for those in which it waited for other ranks."""
    fit_seconds: float = 0.0
    """Seconds that the fit took until then, those of GradScope included."""
    every_n_steps: int = 0
    """The interval of records, in steps; 0 where it is not known."""


@dataclass(frozen=True, eq=False)
class Run:
    """Records stacked, S of them over L layers: what rules, reports and the dashboard look at.

    A run without records has S = 0.
    """

    name: str
    """What it is called: of a log, its directory relative to the one that was read."""
    steps: npt.NDArray[np.int64]
    """int64[S], strictly increasing, counted as in `Record.step`."""
    wall_times: npt.NDArray[np.float64]
    """float64[S]: when each record was taken, in seconds since 1970."""
    layers: tuple[Layer, ...]
    """L rows in order of first execution."""
    metrics: Mapping[str, Floats]
    """By name, float32[S, L]; NaN where the layer has no such metric or it was not measured."""
    columns: tuple[Metric, ...]
    """What those metrics are: one for each."""
    globals: Mapping[str, npt.NDArray[np.float64]]
    """By the names of `gradscope.records.GLOBALS`, float64[S]; NaN where not measured."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What it was recorded with, and is judged by unless others are given."""
    coverage: Coverage = field(default_factory=Coverage)
    """What was measured, and what was not."""
    overhead: Overhead = field(default_factory=Overhead)
    """What GradScope cost."""
    ledger: Ledger = field(default_factory=Ledger)
    """How many steps there were, recorded or not."""
    setup: Setup = field(default_factory=Setup)
    """What was seen before the first step."""
    origin: Origin | None = None
    """Where the first NaN or infinity was born; None where there was none, or where it could not be told."""
    flights: Mapping[str, Flight] = field(default_factory=dict)
    """By the code of a critical finding, the steps before it appeared."""
    stop: Stop | None = None
    """How GradScope ended the fit; None where it did not."""
    rank_outliers: tuple[RankOutlier, ...] = ()
    """Ranks that are unlike the others, and where; empty for a process that trains alone."""
    notes: tuple[str, ...] = ()
    """What was wrong with the log that it was read from, a sentence each."""

    def metric(self, name: str) -> Floats:
        """Return metric `name` as float32[S, L]: all NaN where the run has no such metric."""
        if name in self.metrics:
            return self.metrics[name]
        return np.full((len(self.steps), len(self.layers)), np.nan, dtype=np.float32)

    def series(self, name: str) -> npt.NDArray[np.float64]:
        """Return the step's global `name` as float64[S]: all NaN where the run has no such global."""
        return self.globals.get(name, np.full(len(self.steps), np.nan))

    def column(self, name: str) -> Metric:
        """Return what metric `name` is: a plain one where the run has none of this name."""
        return next((column for column in self.columns if column.name == name), Metric(name, name, "value"))

    def rows(self, *kinds: str) -> npt.NDArray[np.int64]:
        """Return the indices of the layers of any of `kinds`, in order: int64[n], with n = 0 where there is none."""
        return np.array([i for i, layer in enumerate(self.layers) if layer.kind in kinds], dtype=np.int64)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return all that was measured as tidy data: a row for each number, in order of steps, layers and metrics.

        The columns are run, step (int64), wall_time (float64, seconds since 1970), layer, type, kind, metric and value
        (float64), the texts as categories. What belongs to no layer, `loss` say, has an empty layer, type and kind.
        What was not measured has no row; a NaN that was measured has one. A run without records gives no rows.
        ``df.pivot_table("value", "step", "layer")`` of one metric is its matrix.

        Raises:
            ImportError: pandas is not installed; the extra ``export`` installs it.
        """
        from gradscope.export.tables import to_dataframe
        from gradscope.export.tidy import Table

        return to_dataframe(Table(self))

    def _repr_html_(self) -> str:
        # A notebook asks for it. What draws is imported when it does.
        from gradscope.dashboard.notebook import notebook_html

        return notebook_html(self)

    @classmethod
    def from_records(
        cls,
        name: str,
        records: Sequence[Record | Block],
        columns: Sequence[Metric],
        **rest: Any,
    ) -> "Run":
        """Stack `records`, in order of steps; of two with the same step the later wall time wins.

        The layers are those of the last record, then those that only earlier records have. An empty sequence
        gives a run with S = L = 0. `rest` are further fields of `Run`.

        Raises:
            KeyError: a record holds a metric that is not among the `columns`.
        """
        stack = stacked(records, [column.name for column in columns], GLOBALS)
        return cls(
            name=name,
            steps=stack.steps,
            wall_times=stack.wall_times,
            layers=stack.layers,
            metrics=stack.metrics,
            columns=tuple(columns),
            globals=stack.globals,
            **rest,
        )


@dataclass(frozen=True)
class Finding:
    """One disease with one cause: what happened, where, since when, and what to change."""

    code: str
    """Which disease: a key for programs, and what ``gradscope explain`` takes."""
    severity: Severity
    """How bad it is."""
    layers: tuple[str, ...]
    """The names of those that are hit, the worst first; empty means the whole net."""
    first_step: int
    """Where it was seen first, counted as in `Record.step`."""
    last_step: int
    """Where it was seen last."""
    message: str
    """What happened, with numbers."""
    hint: str
    """The usual cause here and what to change, the most likely to help first."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind the message, by name."""
    cause: str = ""
    """The code of the finding that this one follows from, if there is one: cure that first."""

    def __post_init__(self) -> None:
        # Rules compute with numpy, whose numbers the json module refuses.
        for name, value in (
            ("first_step", int(self.first_step)),
            ("last_step", int(self.last_step)),
            ("evidence", {key: float(number) for key, number in self.evidence.items()}),
        ):
            object.__setattr__(self, name, value)

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
