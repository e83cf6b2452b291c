"""The rules of torchmortem 0.1 that have a label here, at their defaults.

Its words for an unsteady loss, for weights that grow, rest or differ in size, and for noise have none.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from rule_sets.watch import Progress, RuleSet, owner, share

VANISHING, EXPLODING = 100.0, 1000.0
"""Gradient norm at the output of the last layer over that of the first; gradient norm at any layer's in any step."""

STALLED, STALLED_SHARE = 1e-8, 0.3
"""Gradient norm that is called near zero, and the share of steps for which it may be."""

NEAR_ZERO, NEAR_ONE = 1e-6, 0.95
"""Size of an output under which it is dead, over which it is saturated, whatever the layer."""

HALF = 0.5
"""Share of outputs, and of steps, from which dead or saturated ones count."""

LOW, HIGH = 1e-5, 1e-1
"""Update ratio, the median over the later half."""

ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax, nn.SiLU,
    nn.Mish, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip


class Torchmortem(RuleSet):
    """Judges when a run is over, mostly by its later half."""

    activations = ACTIVATIONS
    layers = True

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.signalling: list[str] = []
        self.signals = _Series()
        self.zero = _Series()
        self.saturated = _Series()
        self.ratios: dict[str, list[float]] = defaultdict(list)

    def begin(self, module: nn.Module) -> None:
        leaves = [(name, m) for name, m in module.named_modules() if next(m.children(), None) is None]
        self.signalling = [n for n, m in leaves if any(p.requires_grad for p in m.parameters(recurse=False))]

    def see_activation(self, name: str, module: nn.Module, before: Tensor, after: Tensor) -> None:
        self.see_output(name, after)

    def see_output(self, name: str, output: Tensor) -> None:
        size = output.float().abs()
        self.zero.note(name, share(size < NEAR_ZERO))
        self.saturated.note(name, share(size > NEAR_ONE))

    def see_signal(self, name: str, gradient: Tensor) -> None:
        self.signals.note(name, gradient.norm().item())

    def see_update(self, name: str, old: Tensor, new: Tensor) -> None:
        if name.endswith(".weight") and self.steps:  # the first step is left out
            size = new.norm().item()
            self.ratios[owner(name)].append((new - old).norm().item() / size if size > 1e-30 else 0.0)

    def end_batch(self, loss: float | None, accuracy: float | None, progress: Progress) -> None:
        for series in (self.signals, self.zero, self.saturated):
            series.end_step()
        self.steps += 1

    def end(self) -> None:
        if len(self.signalling) > 1 and self.steps:
            self._judge_signals(self.signals.table(self.signalling))
        self._judge_outputs("dead_relu", self.zero)
        self._judge_outputs("saturated_activation", self.saturated)
        self._judge_updates()

    def _judge_signals(self, norms: npt.NDArray[np.float64]) -> None:
        late = norms[len(norms) // 2 :].mean(axis=0)
        first, last = late[0], late[-1]
        cut_off = bool(first < 1e-30)
        # Not `>=`: a mean that is NaN is called vanishing too.
        if cut_off or not (last < 1e-30 or last / first < VANISHING):
            self.say("vanishing_gradient", *(self.signalling[i] for i in np.argsort(late)[:3]))
        for name, layer in zip(self.signalling, norms.T, strict=True):
            if (layer > EXPLODING).any():
                self.say("exploding_gradient", name)
            if (layer < STALLED).mean() >= STALLED_SHARE:
                self.say("vanishing_gradient" if layer.any() else "no_gradient", name)

    def _judge_outputs(self, label: str, series: "_Series") -> None:
        names = list(series.names)
        table = series.table(names)
        late = table[len(table) // 2 :]
        self.say(label, *(n for n, layer in zip(names, late.T, strict=False) if (layer > HALF).mean() >= HALF))

    def _judge_updates(self) -> None:
        for name, ratios in self.ratios.items():
            moved = [r for r in ratios[len(ratios) // 2 :] if r > 0]
            if moved and np.median(moved) < LOW:
                self.say("update_ratio_low", name)
            elif moved and np.median(moved) > HIGH:
                self.say("update_ratio_high", name)


class _Series:
    """A number for each layer and step: the last one noted; 0 where none was."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self._now: dict[str, float] = {}
        self._steps: list[dict[str, float]] = []

    def note(self, name: str, value: float) -> None:
        self.names[name] = None
        self._now[name] = value

    def end_step(self) -> None:
        self._steps.append(self._now)
        self._now = {}

    def table(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return float64[steps, names]."""
        return np.array([[step.get(n, 0.0) for n in names] for step in self._steps], dtype=np.float64)
