"""What each module gives out, reduced on the device to a number that tells whether it is finite."""

import math
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradscope.model.layers import LayerTable
from gradscope.model.sharding import local
from gradscope.model.trace import tensors_in


class OutputWatch:
    """Reduces what each module gives out to one number an output, to be looked at when the step is over."""

    def __init__(self, table: LayerTable) -> None:
        self._table = table
        self._names: list[str] = []
        self._marks: list[Tensor] = []
        self._last: Callable[[], Tensor | None] = _nothing
        """What was marked last; it is not kept alive."""
        self._writes: int | None = None
        """How often it had been written to."""

    def see(self, module: nn.Module, output: object) -> None:
        """Mark `output`: with a finite number, or with another where it holds a NaN or an infinity.

        What a module only passes on, as a container does with that of its last module, is not looked at again.
        """
        for t in map(local, tensors_in(output)):
            readable = t.is_floating_point() and t.layout is torch.strided and not t.is_meta and not is_mapped(t)
            if readable and not self._is_passed_on(t):
                self._names.append(self._table.names.get(module, ""))
                self._marks.append(_mark(t.detach()))
                self._last, self._writes = weakref.ref(t), _writes(t)

    def _is_passed_on(self, t: Tensor) -> bool:
        last = self._last()
        if last is None or self._writes is None or self._writes != _writes(t):
            return False
        return t is last or (t._base is last and t.numel() == last.numel())

    def finish(self) -> tuple[list[str], list[Tensor]]:
        """Return the names of the modules in order of their calls, and the marks on their devices; begin anew."""
        names, marks = self._names, self._marks
        self._names, self._marks = [], []
        return names, marks


def _nothing() -> None:
    return None


def _writes(t: Tensor) -> int | None:
    """How often `t` was written to, which torch does not count in inference mode."""
    return None if t.is_inference() else t._version


def _mark(t: Tensor) -> Tensor:
    if not t.is_cuda or not t.numel() or t.dtype is torch.float64:  # which may hold more than float32
        return t.mul(0).sum(dtype=torch.float32)  # a sum alone may overflow
    return _largest(t)


def _largest(t: Tensor) -> Tensor:
    """The largest absolute value, or what is not finite: on CUDA one kernel, and no copy."""
    largest: Tensor = torch.linalg.vector_norm(t, math.inf)
    return largest


def is_mapped(output: object) -> bool:
    """Say whether torch.func maps over `output`, or takes its derivatives: no number can be read from it then."""
    return isinstance(output, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(output)
