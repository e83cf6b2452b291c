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
        self._last: list[tuple[Callable[[], Tensor | None], int | None]] = []
        """What the last module gave out that was marked, which is not kept alive; and how often it was written to."""

    def see(self, module: nn.Module, output: object) -> None:
        """Mark `output`: with a finite number, or with another where it holds a NaN or an infinity.

        What a module only passes on, as a container does with that of its last module, is not looked at again: the same
        tensors or views of all of them, if torch knows of no write to them since. Of one through `.data` it does not.
        """
        readable = [t for t in map(local, tensors_in(output)) if _is_readable(t)]
        new = [t for t in readable if not self._is_passed_on(t)]
        self._names += [self._table.names.get(module, "")] * len(new)
        self._marks += [_mark(t.detach()) for t in new]
        if new:
            self._last = [(weakref.ref(t), _writes(t)) for t in readable]

    def _is_passed_on(self, t: Tensor) -> bool:
        writes = _writes(t)
        known = [last() for last, before in self._last if writes is not None and writes == before]
        return any(t is last or (t._base is last and t.numel() == last.numel()) for last in known if last is not None)

    def finish(self) -> tuple[list[str], list[Tensor]]:
        """Return the names of the modules in order of their calls, and the marks on their devices; begin anew."""
        names, marks = self._names, self._marks
        self._names, self._marks = [], []
        return names, marks


def _is_readable(t: Tensor) -> bool:
    return t.is_floating_point() and t.layout is torch.strided and not t.is_meta and not is_mapped(t)


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
