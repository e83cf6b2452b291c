"""A moment in the step of an optimizer, and the parameters that it is about."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from gradscope.model.nesterov import Momenta
from gradscope.model.sharding import Parts, lies_like, local


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters of an optimizer, and for each the row of the layer that owns it: -1 for one that is not watched.

    `rows` is int64[len(tensors)]. As long as nothing changes a probe is given the same object again. Where they are
    sharded over ranks, `parts` tells how: of what is in `tensors` only `here` and `gradients` may be looked at then,
    for whatever is done to a whole makes all ranks talk to each other.
    """

    tensors: tuple[nn.Parameter, ...]
    rows: npt.NDArray[np.int64]
    parts: Parts | None = None

    @property
    def spread(self) -> bool:
        """Whether what is here tells nothing without the other ranks."""
        return self.parts is not None and self.parts.ranks > 1

    def shares(self, ranks: int) -> npt.NDArray[np.float64]:
        """Return by what sums of squared norms over `ranks` are to be multiplied: float64[len(tensors)]."""
        return np.full(len(self.tensors), 1 / ranks) if self.parts is None else self.parts.shares

    def here(self, number: int) -> Tensor:
        """Return the part of a parameter that this rank holds: all of it where nothing is sharded."""
        tensor = self.tensors[number]
        return tensor if self.parts is None else local(tensor)

    def gradients(self, numbers: Iterable[int] | None = None) -> list[tuple[int, Tensor]]:
        """Return the part that is here of each gradient, or of those of `numbers`, after the number of its parameter.

        Without those that are `unsummed`, or None.
        """
        chosen = enumerate(self.tensors) if numbers is None else [(i, self.tensors[i]) for i in numbers]
        found = [(i, g) for i, p in chosen if (g := p.grad) is not None]
        if self.parts is None:
            return found
        return [(i, local(g)) for i, g in found if lies_like(g, self.tensors[i])]

    def unsummed(self) -> list[int]:
        """Return the numbers of the parameters of whose gradients ranks hold summands, or other parts than of them."""
        if self.parts is None:
            return []
        return [i for i, p in enumerate(self.tensors) if p.grad is not None and not lies_like(p.grad, p)]

    def trainable(self) -> list[int]:
        """Return the numbers of those of which a gradient is to be expected: none that has no element to be moved."""
        if self.parts is None:
            return [i for i, p in enumerate(self.tensors) if p.requires_grad and p.numel()]
        left_out = {*self.unsummed()}
        return [i for i, p in enumerate(self.tensors) if p.requires_grad and i not in left_out and self.elements(i)]

    def elements(self, number: int) -> int:
        """Return how many elements a parameter has on all ranks together."""
        return self.tensors[number].numel() if self.parts is None else int(self.parts.elements[number])


class Moment(NamedTuple):
    """A moment in the step of an optimizer: after a backward, before the step, or after it."""

    optimizer: int
    """Its number among those of the fit."""
    parameters: Parameters
    loss_scale: Tensor | None = None
    """By what a GradScaler has multiplied the loss: float32[1], or None without one."""
    scaled: bool = False
    """Whether the gradients are still multiplied by it."""
    overflow: Tensor | None = None
    """Above zero where a fused optimizer found infinite gradients and did not step; None for any other optimizer."""
    untouched: bool = False
    """Whether nobody but the optimizer had a chance to change gradients unseen since `before_optimizer_step`."""
    silent: bool = False
    """Whether nobody will tell if the step happens: a GradScaler may skip it, and the optimizer knows no hooks."""
    momenta: Callable[[], Momenta] = dict
    """Tells what the optimizer has added to gradients in this step."""
