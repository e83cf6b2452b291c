"""Where a NaN or an infinity was born: which module, forward or backward, found in the very step in which it appears.

One step later everything is NaN, and in the step itself everything behind it. So a step is searched when its loss turns
out not to be finite while its graph is still there: what autograd saved for the backward tells the first operation
with a bad result. Until then it costs a look at the loss.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.layers import LayerTable


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
        self.saves_elsewhere = False
        """Whether what is saved for the backward is kept elsewhere or computed again: looking at it would disturb."""
        self._open: list[tuple[nn.Module, int]] = []
        self._ended: list[Call] = []

    def enter(self, module: nn.Module) -> None:
        """Note that the forward of `module` begins."""
        self._open.append((module, _running_number()))
        if _top_hooks is None or _top_hooks(False) is not None:
            self.saves_elsewhere = True  # also where torch does not tell

    def leave(self, module: nn.Module, output: object) -> None:
        """Note that it ends."""
        while self._open:
            opened, begin = self._open.pop()
            if opened is module:
                node = next((t.grad_fn for t in tensors_in(output) if t.grad_fn is not None), None)
                made_by = (None, "") if node is None else (_number(node), node.name())
                self._ended.append(Call(module, begin, _running_number(), *made_by))
                return

    def end(self, loss: Tensor) -> None:
        """Take what was noted since the last `end` for the calls of a forward, unless it is nothing."""
        if self._ended and loss.grad_fn is not None:
            last = _number(loss.grad_fn)
            self.calls = [
                Call(c.module, last - c.begin, last - c.end, None if c.output is None else last - c.output, c.made_by)
                for c in self._ended
            ]
        self._ended, self._open = [], []

    def fits(self, loss: Tensor) -> bool:
        """Say whether `loss` was made by the same operations as when the calls were noted."""
        last = _number(loss.grad_fn)
        names = {last - _number(node): node.name() for node in _nodes(loss.grad_fn)}
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
            elif started and not type(call.module).__module__.startswith("torch."):
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
    for node in sorted(_nodes(loss.grad_fn), key=_number):
        inputs_bad, output_bad = _saved_badness(node)
        if inputs_bad:
            return _culprit_before(node)
        if output_bad:
            return Suspect(node)
    return Suspect(loss.grad_fn)


def parameters_of(node: Any) -> list[Tensor]:
    """Return the leaves that `node` reads directly, or through the transpose that a linear layer makes."""
    leaves = []
    for parent, _ in node.next_functions:
        if parent is not None:
            close = [parent] if hasattr(parent, "variable") else [n for n, _ in parent.next_functions if n is not None]
            near = _number(parent) == _LEAF or operation(parent) in ("t", "transpose")
            leaves += [n.variable for n in close if near and hasattr(n, "variable")]
    return leaves


def nearest_parameter(node: Any) -> Tensor | None:
    """Return a parameter that the operation closest before `node` reads: what `node` computes comes after it."""
    readers = [n for n in _nodes(node) if parameters_of(n)]
    return parameters_of(max(readers, key=_number))[0] if readers else None


def back_from(loss: Tensor, node: Any) -> int:
    """Return by how many operations `node` came before `loss`."""
    return _number(loss.grad_fn) - _number(node)


def operation(node: Any) -> str:
    """Return the name of what `node` did: ``log`` for ``LogBackward0``."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward").lower()


def is_bad(t: Tensor) -> bool:
    """Say whether `t` holds a NaN or an infinity. Waits for the device."""
    return t.is_floating_point() and not bool(torch.isfinite(t.coalesce().values() if t.is_sparse else t).all())


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
    """Sums up what each module gives out, one number an output, to be looked at when the step is over."""

    def __init__(self, table: LayerTable) -> None:
        self._table = table
        self._names: list[str] = []
        self._sums: list[Tensor] = []

    def see(self, module: nn.Module, output: object) -> None:
        """Reduce `output`: the sum of what holds a NaN or an infinity is none either."""
        for t in tensors_in(output):
            if t.is_floating_point() and t.layout is torch.strided:
                self._names.append(self._table.names.get(module, ""))
                self._sums.append(t.detach().sum(dtype=torch.float32))

    def finish(self) -> tuple[list[str], list[Tensor]]:
        """Return the names of the modules in order of their calls, and their sums on the device; begin anew."""
        names, sums = self._names, self._sums
        self._names, self._sums = [], []
        return names, sums


_LEAF = 2**64 - 1
"""The number of a node that accumulates a gradient: it has no place in the order."""

_running_number: Callable[[], int] = torch._C._autograd._get_sequence_nr
_top_hooks: Callable[[bool], object] | None = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def _number(node: Any) -> int:
    return int(node._sequence_nr())


def _nodes(root: Any) -> list[Any]:
    """All operations that `root` depends on, itself included, without the leaves."""
    seen, waiting = {root}, [root]
    while waiting:
        for parent, _ in waiting.pop().next_functions:
            if parent is not None and parent not in seen and _number(parent) != _LEAF:
                seen.add(parent)
                waiting.append(parent)
    return list(seen)


def _saved_badness(node: Any) -> tuple[bool, bool]:
    """Whether among what `node` saved there is a bad input, and a bad result."""
    bad = [name for name, t in _saved(node) if is_bad(t)]
    results = [name for name in bad if name.startswith(_RESULTS)]
    return len(bad) > len(results), bool(results)


def _saved(node: Any) -> Iterator[tuple[str, Tensor]]:
    for name in dir(node):
        if name.startswith("_saved_") and "mask" not in name:  # a mask of -inf is as it should be
            value = getattr(node, name)
            if isinstance(value, Tensor):
                yield name, value


def _culprit_before(node: Any) -> Suspect:
    """What gave `node` its bad input: a predecessor whose result is not known to be good.

    The latest that can make an infinity of good numbers (a log, a quotient, a power); else the latest of any kind.
    Where only inputs without a gradient are left, it was born before `node`, out of autograd's sight.
    """
    waiting: list[Any] = [node]
    doubtful: list[Any] = []
    while waiting:
        for parent, _ in waiting.pop().next_functions:
            if parent is None or _number(parent) == _LEAF or _is_known_to_be_good(parent) or parent in doubtful:
                continue
            if operation(parent) in _PASSES_ON | _COMBINES:
                waiting.append(parent)
            if operation(parent) not in _PASSES_ON:
                doubtful.append(parent)
    able = [n for n in doubtful if operation(n) in _CAN_DIVERGE] or doubtful
    return Suspect(max(able, key=_number)) if able else Suspect(node, before=True)


def _is_known_to_be_good(node: Any) -> bool:
    results = [t for name, t in _saved(node) if name.startswith(_RESULTS)]
    return bool(results) and not any(map(is_bad, results))


_RESULTS = ("_saved_result", "_saved_output", "_saved_out")

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
