"""Where a NaN or an infinity was born: which module, forward or backward, found in the very step in which it appears.

One step later everything is NaN, and in the step itself everything behind it. So a step is searched when its loss turns
out not to be finite while its graph is still there: what autograd saved for the backward tells the first operation
with a bad result. Until then it costs a look at the loss.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.model.autograd import LEAF, SHAPES, nodes_of, number_of, operation, parameters_of
from gradscope.model.sharding import is_here, local

_RAW = "_raw_saved_"
_SAVED_TENSOR: Any = torch._C._autograd.SavedTensor
_RESULTS = ("result", "output", "out")

_PASSES_ON = (SHAPES - {"tocopy"}) | {"cat", "split", "stack", "unbind"}
"""Operations in which no bad number is born: those that give out what they were given, of several inputs too. Not
a cast: of a large number one to a narrower dtype makes an infinity."""

_COMBINES = {"add", "maskedfill", "mean", "mul", "neg", "sub", "sum", "where"}
"""Operations that only overflow where their inputs are huge already."""

_CAN_DIVERGE = {
    "acos", "acosh", "asin", "atanh", "cosh", "digamma", "div", "exp", "expm1", "lgamma", "linalgvectornorm", "log",
    "log10", "log1p", "log2", "logit", "norm", "pow", "reciprocal", "rsqrt", "sinh", "sqrt", "tan", "xlogy",
}  # fmt: skip
"""Operations that make an infinity or a NaN of harmless numbers."""


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
            n for n, _ in reader.next_functions if n is not None and n not in seen and number_of(n) != LEAF
        )
        seen |= before.keys()
        waiting += [n for n in before if not saved.result_is_good(n)]
    return None


def nearest_parameter(node: Any) -> Tensor | None:
    """Return a parameter that the operation closest before `node` reads: what `node` computes comes after it."""
    readers = [n for n in nodes_of(node) if parameters_of(n)]
    return parameters_of(max(readers, key=number_of))[0] if readers else None


def is_bad(t: Tensor) -> bool:
    """Say whether `t`, or the part of it that is on this rank, holds a NaN or an infinity. Waits for the device."""
    if not t.is_floating_point() or not is_here(t := local(t)):
        return False
    return not bool(torch.isfinite(t.coalesce().values() if t.is_sparse else t).all())


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
            if parent is None or parent in seen or number_of(parent) == LEAF or saved.result_is_good(parent):
                continue
            seen.add(parent)
            if operation(parent) in _PASSES_ON | _COMBINES:
                waiting.append(parent)
            if operation(parent) not in _PASSES_ON:
                doubtful.append(parent)
    able = [n for n in doubtful if operation(n) in _CAN_DIVERGE]
    if doubtful and not able and saved.has_bad_constant(node):
        return Suspect(node)
    able = able or doubtful
    return Suspect(max(able, key=number_of)) if able else Suspect(node, before=True)
