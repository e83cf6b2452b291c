"""What a case is, and the fixed vocabulary of labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.data import Loader
from zoo.modules import ZooModule

LABELS: dict[str, str] = {
    "vanishing_gradient": "the error signal dies on the way back to early layers (or early time steps)",
    "exploding_gradient": "the error signal grows a thousandfold on the way back, or from step to step",
    "dead_relu": "many units of a ReLU layer are zero for every training sample",
    "selu_drift": "SELU outputs leave mean [-0.1, 0.1] or variance [0.8, 1.5]",
    "saturated_activation": "most sigmoid/tanh outputs of a layer sit where the slope is nearly zero",
    "uneven_learning_speed": "weight matrices of one net move at relative speeds a thousandfold apart",
    "no_gradient": "a trainable parameter never once receives a non-zero gradient",
    "non_finite": "NaN or Inf reaches the loss, a gradient or a weight",
    "update_ratio_high": "five or more steps in a row rewrite a tenth or more of a weight matrix",
    "update_ratio_low": "a typical step moves the weights by less than a millionth, long before convergence",
    "selu_misconfigured": "SELU without LeCun-variance weights, or with Dropout instead of AlphaDropout",
    "clipping_dominates": "nearly every step is clipped, and clipped hard",
}
"""The measured meaning of each label is the rule of the same name in truth.py."""

LayerGroup = tuple[str, ...]
"""A guilty layer, as names any of which is a fair answer: ("fc2", "act2"), the Linear and the ReLU that reads it."""


@dataclass(frozen=True)
class Cure:
    """The same run with the fault taken out. The oracle trains it for comparison."""

    what: str
    make_module: Callable[[], ZooModule] | None = None
    make_loader: Callable[[], Loader] | None = None
    make_trainer_kwargs: Callable[[], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Case:
    """One run: how to train it, and what is true of it.

    `guilty` holds, for some labels, the layers to blame; `tolerated` layers in the grey zone of a label's rule, whose
    naming is neither rewarded nor punished. `also_true` are labels that are true only as a consequence of `labels`, or
    in the grey zone of a rule: reporting one of them is neither rewarded nor punished either. A sound case has no label
    and learns: its last loss over the whole training set is at most `learns_to`. `onset` is the step with which the
    fault begins, counted from 0.

    Raises:
        ValueError: the labels are unknown or contradict each other, or what they ask for is missing.
    """

    name: str
    why: str
    make_module: Callable[[], ZooModule]
    make_loader: Callable[[], Loader]
    steps: int
    seed: int
    labels: frozenset[str] = frozenset()
    guilty: Mapping[str, tuple[LayerGroup, ...]] = field(default_factory=dict)
    tolerated: Mapping[str, tuple[LayerGroup, ...]] = field(default_factory=dict)
    also_true: frozenset[str] = frozenset()
    make_trainer_kwargs: Callable[[], dict[str, Any]] = dict
    cure: Cure | None = None
    learns_to: float | None = None
    onset: int = 0

    def __post_init__(self) -> None:
        for label in (*self.labels, *self.also_true, *self.guilty):
            if label not in LABELS:
                raise ValueError(f"{self.name}: unknown label {label!r}; give one of {', '.join(LABELS)}")
        if both := self.labels & self.also_true:
            raise ValueError(f"{self.name}: {sorted(both)} is both required and optional; keep one")
        if self.labels and self.cure is None and self.labels != {"non_finite"}:
            raise ValueError(f"{self.name}: a sick case needs a cure to be compared with")
        if not self.labels and self.learns_to is None:
            raise ValueError(f"{self.name}: a sound case needs learns_to")

    @property
    def sound(self) -> bool:
        return not self.labels

    def cured(self) -> "Case":
        """Return the cured twin as a case of its own, which the oracle trains.

        Raises:
            ValueError: the case has no cure.
        """
        cure = self.cure
        if cure is None:
            raise ValueError(f"{self.name} has no cure")
        return Case(
            name=f"{self.name}+cured",
            why=cure.what,
            make_module=cure.make_module or self.make_module,
            make_loader=cure.make_loader or self.make_loader,
            steps=self.steps,
            seed=self.seed,
            make_trainer_kwargs=cure.make_trainer_kwargs or self.make_trainer_kwargs,
            learns_to=float("inf"),
        )


def labels(*names: str) -> frozenset[str]:
    return frozenset(names)


def numbered(*patterns: str, upto: int, start: int = 1) -> tuple[LayerGroup, ...]:
    """Return a group for each number: of "fc{}" and "act{}" up to 2 come (("fc1", "act1"), ("fc2", "act2"))."""
    return tuple(tuple(p.format(i) for p in patterns) for i in range(start, upto + 1))
