"""The operations that autograd remembers of a forward: their names, their order, and what went into them."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEAF = 2**64 - 1
"""The number of a node that accumulates a gradient: it has no place in the order."""

running_number: Callable[[], int] = torch._C._autograd._get_sequence_nr
"""Gives the number that the next operation will have."""

SHAPES = frozenset({
    "alias", "clone", "expand", "permute", "reshapealias", "select", "slice", "squeeze", "t", "tocopy", "transpose",
    "unsafeview", "unsqueeze", "view",
})  # fmt: skip
"""Operations that give out the numbers they were given."""


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
            if parent is not None and parent not in seen and number_of(parent) != LEAF:
                seen.add(parent)
                waiting.append(parent)
        if len(seen) > limit:
            return []
    return list(seen)


def parameters_of(node: Any) -> list[Tensor]:
    """Return the leaves that `node` reads directly, or through the transpose that a linear layer makes."""
    leaves = []
    for parent, _ in node.next_functions:
        if parent is not None:
            close = [parent] if hasattr(parent, "variable") else [n for n, _ in parent.next_functions if n is not None]
            near = number_of(parent) == LEAF or operation(parent) in ("t", "transpose")
            leaves += [n.variable for n in close if near and hasattr(n, "variable")]
    return leaves
