"""Where a NaN or an infinity was born: which module, forward or backward, found in the very step in which it appears.

One step later everything is NaN, and in the step itself everything behind it. So a step is searched when its loss turns
out not to be finite while its graph is still there: what autograd saved for the backward tells the first operation
with a bad result. Until then it costs a look at the loss.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.model.layers import LayerTable
from gradscope.model.sharding import is_here, local, plain_class


class Call(NamedTuple):
    """A module's part of a forward: autograd's running numbers when it began and ended, counted back from the loss.

    `output` and `made_by` are the number and the name of the operation that made its output, if autograd knows one.
    """

    module: nn.Module
    begin: int
    end: int
    output: int | None = None
    made_by: str = ""


class Trace:
    """The calls of all modules in one forward, in the order in which they ended.

    The next forward of the same code makes the same operations in the same order, so that the number of an operation
    tells the module it belongs to.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: list[tuple[nn.Module, int]] = []
        self._ended: list[Call] = []

    def enter(self, module: nn.Module) -> None:
        """Note that the forward of `module` begins."""
        self._open.append((module, _running_number()))

    def leave(self, module: nn.Module, output: object) -> None:
        """Note that it ends."""
        while self._open:
            opened, begin = self._open.pop()
            if opened is module:
                node = next((t.grad_fn for t in tensors_in(output) if t.grad_fn is not None), None)
                made_by = (None, "") if node is None else (number_of(node), node.name())
                self._ended.append(Call(module, begin, _running_number(), *made_by))
                return

    def end(self, loss: Tensor) -> None:
        """Take what was noted since the last `end` for the calls of a forward, unless it is nothing."""
        if self._ended and loss.grad_fn is not None:
            last = number_of(loss.grad_fn)
            self.calls = [
                Call(c.module, last - c.begin, last - c.end, None if c.output is None else last - c.output, c.made_by)
                for c in self._ended
            ]
        self._ended, self._open = [], []

    def fits(self, loss: Tensor) -> bool:
        """Say whether `loss` was made by the same operations as when the calls were noted."""
        last = number_of(loss.grad_fn)
        names = {last - number_of(node): node.name() for node in nodes_of(loss.grad_fn)}
        known = [c for c in self.calls if c.output is not None and c.output in names]
        return bool(known) and all(names[c.output] == c.made_by for c in known if c.output is not None)

    def innermost(self, back: int) -> nn.Module | None:
        """Return the innermost module whose forward made the operation `back` before that of the loss."""
        inside = [c for c in self.calls if c.begin >= back > c.end]
        return min(inside, key=lambda c: c.begin - c.end).module if inside else None

    def before(self, module: nn.Module) -> nn.Module | None:
        """Return the module whose forward ended last before that of `module` began."""
        begin = next((c.begin for c in self.calls if c.module is module), None)
        if begin is None:
            return None
        earlier = [c.module for c in self.calls if c.end >= begin and c.module is not module]
        return earlier[-1] if earlier else None

    def after(self, module: nn.Module) -> nn.Module | None:
        """Return the first module without parameters and of no class of torch's that ran between `module` and the next.

        The next is the one with parameters after it. A bad gradient that a layer of torch's own gets comes from what
        the user wrote behind it, where there is such a thing.
        """
        started = False
        for call in self.calls:
            if call.module is module:
                started = True
            elif started and next(call.module.parameters(), None) is not None:
                return None
            elif started and not plain_class(call.module).__module__.startswith("torch."):
                return call.module
        return None


class Suspect(NamedTuple):
    """An operation in whose result (or, of `before`, among whose inputs without a gradient) the first bad number is."""

    node: Any
    before: bool = False


def first_bad(loss: Tensor) -> Suspect | None:
    """Return the operation that gave out the first NaN or infinity on the way to `loss`.

    Called between forward and backward; reads what autograd saved, and waits for the device. None where the graph says
    nothing: for a loss without a graph.
    """
    if loss.grad_fn is None:
        return None
    saved = _Saved()
    for node in sorted(nodes_of(loss.grad_fn), key=number_of):
        if saved.has_bad_input(node):
            return _culprit_before(node, saved)
        if saved.result_is_good(node) is False:
            return Suspect(node)
    return Suspect(loss.grad_fn)


class _Saved:
    """What autograd saved at each operation: whether it is good. Each value is looked at once.

    A value that is kept elsewhere, or computed again when it is asked for, as checkpointing does, is not known.
    """

    def __init__(self) -> None:
        self._bad: dict[Any, dict[str, bool]] = {}

    def has_bad_input(self, node: Any) -> bool:
        """Say whether a NaN or an infinity is known to be among the inputs of `node`."""
        return any(bad for name, bad in self._of(node).items() if not name.startswith(_RESULTS))

    def has_bad_constant(self, node: Any) -> bool:
        """Say whether `node` multiplies with, or divides by, a bad number that no gradient goes to."""
        if operation(node) not in ("mul", "div"):
            return False
        operands = zip(("self", "other"), node.next_functions, strict=False)
        return any(parent is None and self._of(node).get(name, False) for name, (parent, _) in operands)

    def result_is_good(self, node: Any) -> bool | None:
        """Say whether the result of `node` is all finite: None where it is not known."""
        results = [bad for name, bad in self._of(node).items() if name.startswith(_RESULTS)]
        return not any(results) if results else None

    def _of(self, node: Any) -> dict[str, bool]:
        if node not in self._bad:
            self._bad[node] = {}
            for name in dir(node):
                if name.startswith(_RAW) and "mask" not in name:  # a mask of -inf is as it should be
                    value = _peek(getattr(node, name))
                    if value is not None:
                        self._bad[node][name.removeprefix(_RAW)] = is_bad(value)
        return self._bad[node]


def _peek(saved: object) -> Tensor | None:
    """The saved tensor itself, without the hooks that may stand between it and whoever asks; None where some do.

    None too where its memory is not there, as that of weights that FSDP gathers anew for the backward.
    """
    seen: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        seen.append(tensor.detach())
        return tensor

    if not isinstance(saved, _SAVED_TENSOR):
        return None
    try:
        saved.register_hooks(look, lambda tensor: tensor)
    except RuntimeError:  # there are hooks already, or nothing was saved
        return None
    return seen[0] if seen and is_here(local(seen[0])) else None


def parameters_of(node: Any) -> list[Tensor]:
    """Return the leaves that `node` reads directly, or through the transpose that a linear layer makes."""
    leaves = []
    for parent, _ in node.next_functions:
        if parent is not None:
            close = [parent] if hasattr(parent, "variable") else [n for n, _ in parent.next_functions if n is not None]
            near = number_of(parent) == _LEAF or operation(parent) in ("t", "transpose")
            leaves += [n.variable for n in close if near and hasattr(n, "variable")]
    return leaves


def bad_parameter(node: Any) -> Tensor | None:
    """Return a parameter with a NaN or an infinity that went into the bad result of `node`: None where there is none.

    `node` may have read it itself, or operations before it of whose results nothing is known: of a first layer, whose
    inputs need no gradient, autograd saves no weight, and a bias nowhere.
    """
    saved, waiting, seen = _Saved(), [node], {node}
    while waiting:
        reader = waiting.pop(0)
        for parameter in parameters_of(reader):
            if is_bad(parameter.detach()):
                return parameter
        before = dict.fromkeys(
            n for n, _ in reader.next_functions if n is not None and n not in seen and number_of(n) != _LEAF
        )
        seen |= before.keys()
        waiting += [n for n in before if not saved.result_is_good(n)]
    return None


def nearest_parameter(node: Any) -> Tensor | None:
    """Return a parameter that the operation closest before `node` reads: what `node` computes comes after it."""
    readers = [n for n in nodes_of(node) if parameters_of(n)]
    return parameters_of(max(readers, key=number_of))[0] if readers else None


def back_from(loss: Tensor, node: Any) -> int:
    """Return by how many operations `node` came before `loss`."""
    return number_of(loss.grad_fn) - number_of(node)


def operation(node: Any) -> str:
    """Return the name of what `node` did: ``log`` for ``LogBackward0``."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward").lower()


def number_of(node: Any) -> int:
    """Return the running number of the operation `node`: it ran after those with a smaller one."""
    return int(node._sequence_nr())


def nodes_of(root: Any, limit: int = sys.maxsize) -> list[Any]:
    """Return all operations that `root` depends on, itself included, without the leaves; none where over `limit`."""
    seen, waiting = {root}, [root]
    while waiting:
        for parent, _ in waiting.pop().next_functions:
            if parent is not None and parent not in seen and number_of(parent) != _LEAF:
                seen.add(parent)
                waiting.append(parent)
        if len(seen) > limit:
            return []
    return list(seen)


def is_bad(t: Tensor) -> bool:
    """Say whether `t`, or the part of it that is on this rank, holds a NaN or an infinity. Waits for the device."""
    if not t.is_floating_point() or not is_here(t := local(t)):
        return False
    return not bool(torch.isfinite(t.coalesce().values() if t.is_sparse else t).all())


def tensors_in(output: object) -> Iterator[Tensor]:
    """Yield the tensors in what a module gave out: tuples, dicts and packed sequences, however deep."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, PackedSequence):
        yield output.data
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors_in(value)


class OutputWatch:
    """Reduces what each module gives out to one number an output, to be looked at when the step is over."""

    def __init__(self, table: LayerTable) -> None:
        self._table = table
        self._names: list[str] = []
        self._marks: list[Tensor] = []

    def see(self, module: nn.Module, output: object) -> None:
        """Mark `output`: with a finite number, or with another where it holds a NaN or an infinity."""
        for t in map(local, tensors_in(output)):
            if t.is_floating_point() and t.layout is torch.strided and not t.is_meta and not _is_mapped(t):
                self._names.append(self._table.names.get(module, ""))
                self._marks.append(_mark(t.detach()))

    def finish(self) -> tuple[list[str], list[Tensor]]:
        """Return the names of the modules in order of their calls, and the marks on their devices; begin anew."""
        names, marks = self._names, self._marks
        self._names, self._marks = [], []
        return names, marks


def _mark(t: Tensor) -> Tensor:
    if not t.is_cuda or not t.numel() or t.dtype is torch.float64:  # which may hold more than float32
        return t.mul(0).sum(dtype=torch.float32)  # a sum alone may overflow
    return _largest(t)


def _largest(t: Tensor) -> Tensor:
    """The largest absolute value, or what is not finite: on CUDA one kernel, and no copy."""
    largest: Tensor = torch.linalg.vector_norm(t, math.inf)
    return largest


_is_mapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor

_LEAF = 2**64 - 1
"""The number of a node that accumulates a gradient: it has no place in the order."""

_running_number: Callable[[], int] = torch._C._autograd._get_sequence_nr


def _culprit_before(node: Any, saved: _Saved) -> Suspect:
    """What gave `node` its bad input: a predecessor whose result is not known to be good.

    The latest that can make an infinity of good numbers (a log, a quotient, a power); else `node` itself, where what is
    bad is a factor or divisor without a gradient, such as the weights of a loss; else the latest of any kind. Where
    only inputs without a gradient are left, it was born before `node`, out of autograd's sight.
    """
    waiting, seen = [node], {node}
    doubtful: list[Any] = []
    while waiting:
        for parent, _ in waiting.pop().next_functions:
            if parent is None or parent in seen or number_of(parent) == _LEAF or saved.result_is_good(parent):
                continue
            seen.add(parent)
            if operation(parent) in _PASSES_ON | _COMBINES:
                waiting.append(parent)
            if operation(parent) not in _PASSES_ON:
                doubtful.append(parent)
    able = [n for n in doubtful if operation(n) in _CAN_DIVERGE]
    if not able and saved.has_bad_constant(node):
        return Suspect(node)
    able = able or doubtful
    return Suspect(max(able, key=number_of)) if able else Suspect(node, before=True)


_RAW = "_raw_saved_"
_SAVED_TENSOR: Any = torch._C._autograd.SavedTensor
_RESULTS = ("result", "output", "out")

_PASSES_ON = {
    "alias", "cat", "clone", "expand", "permute", "reshapealias", "select", "slice", "split", "squeeze", "stack", "t",
    "transpose", "unbind", "unsafeview", "unsqueeze", "view",
}  # fmt: skip
"""Operations that give out the numbers they were given: none is born in them."""

_COMBINES = {"add", "maskedfill", "mean", "mul", "neg", "sub", "sum", "where"}
"""Operations that only overflow where their inputs are huge already."""

_CAN_DIVERGE = {
    "acos", "acosh", "asin", "atanh", "cosh", "digamma", "div", "exp", "expm1", "lgamma", "linalgvectornorm", "log",
    "log10", "log1p", "log2", "logit", "norm", "pow", "reciprocal", "rsqrt", "sinh", "sqrt", "tan", "xlogy",
}  # fmt: skip
"""Operations that make an infinity or a NaN of harmless numbers."""
