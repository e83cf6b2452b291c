"""What activations do: their outputs seen, and added up over a training set."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

KINDS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    Tensor.relu: "relu",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    Tensor.tanh: "tanh",
    F.selu: "selu",
    torch.selu: "selu",
}
"""What a call of each function is."""


class ActivationTap(TorchFunctionMode):
    """Sees the output of every relu, sigmoid, tanh and selu, be it a module's or a function's.

    Each call is named after the innermost module around it, with #k for its k-th call in there.
    """

    def __init__(self, module: nn.Module, see: Callable[[str, str, Tensor], None]) -> None:
        super().__init__()
        self.see = see
        self.stack: list[str] = [""]
        self.calls: dict[str, int] = defaultdict(int)
        self.handles: list[RemovableHandle] = []
        for name, m in module.named_modules():
            if name:
                self.handles += [m.register_forward_pre_hook(self._enter(name)), m.register_forward_hook(self._leave)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = KINDS.get(func)
        if kind:
            where = self.stack[-1]
            self.calls[where] += 1
            self.see(f"{where}#{self.calls[where]}", kind, out.detach())
        return out

    def new_batch(self) -> None:
        self.calls.clear()

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self.stack.append(name)

    def _leave(self, *_: Any) -> None:
        self.stack.pop()


@dataclass
class ActivationFacts:
    """Of the outputs of one activation.

    `dead_share` is that of units that are zero on every sample, `flat_share` that of outputs whose slope is under 1 %
    of the steepest.
    """

    kind: str
    units: int = 0
    zero_share: float = 0.0
    dead_share: float = 0.0
    flat_share: float = 0.0
    mean: float = 0.0
    variance: float = 0.0


class UnitCounter:
    """Adds up one activation's outputs over batches. Units are the channels of a 4-d output, else its last axis."""

    def __init__(self, kind: str) -> None:
        self.kind, self.n = kind, 0
        self.sums: list[Tensor] = []  # by unit: zeros, flat outputs, outputs, squares of outputs

    def add(self, out: Tensor) -> None:
        per_unit = out.movedim(1, -1) if out.dim() == 4 else out
        per_unit = per_unit.reshape(-1, per_unit.shape[-1]).double()
        new = [(per_unit == 0).sum(0), self._flat(per_unit).sum(0), per_unit.sum(0), (per_unit**2).sum(0)]
        if self.sums and self.sums[0].shape != new[0].shape:
            return  # a function's call whose width changes from call to call: keep the first
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)] if self.sums else new
        self.n += per_unit.shape[0]

    def facts(self) -> ActivationFacts:
        zero, flat, total, squares = self.sums
        outputs = self.n * len(zero)
        mean = total.sum().item() / outputs
        return ActivationFacts(
            kind=self.kind,
            units=len(zero),
            zero_share=zero.sum().item() / outputs,
            dead_share=(zero == self.n).double().mean().item(),
            flat_share=flat.sum().item() / outputs,
            mean=mean,
            variance=squares.sum().item() / outputs - mean**2,
        )

    def _flat(self, outputs: Tensor) -> Tensor:
        if self.kind == "tanh":
            return (1 - outputs**2) < 0.01
        if self.kind == "sigmoid":
            return 4 * outputs * (1 - outputs) < 0.01
        return torch.zeros_like(outputs, dtype=torch.bool)
