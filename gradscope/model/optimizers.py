"""The optimizers of a fit: which parameters each has, whose these are, and whether it tells of its steps."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.model.layers import LayerTable
from gradscope.model.moment import Moment, Parameters
from gradscope.model.nesterov import momenta_in_gradients
from gradscope.model.scaling import LossScale
from gradscope.model.sharding import DEEPSPEED, FLAT, GRADIENTS, is_flat, is_hidden, is_partitioned, parts_of


def tells_of_steps(optimizer: Optimizer) -> bool:
    """Say whether torch calls hooks of the step of `optimizer`.

    Lightning takes anything that has the methods of an optimizer, and torch only knows those whose classes went through
    `Optimizer.__init__`: a wrapper around another one often does not, and may have a place for hooks all the same.
    """
    step = getattr(type(optimizer), "step", None)
    return getattr(step, "hooked", False) and hasattr(optimizer, "_optimizer_step_post_hooks")


class _Known(NamedTuple):
    """The parameters of an optimizer as they were last: `identities` of all of them, and which were still `lazy`."""

    identities: list[int]
    lazy: Sequence[Tensor]
    parameters: Parameters

    def holds(self, number: int) -> bool:
        """Say whether there are so many still, and the same are lazy: one that wakes keeps its identity."""
        return len(self.identities) == number and all(map(is_lazy, self.lazy))


class Optimizers:
    """Gives the moments of their steps. `root` is the model with what a strategy has wrapped around it."""

    def __init__(self, table: LayerTable, scale: LossScale, root: nn.Module) -> None:
        self.all: list[Optimizer] = []
        """Those of the step that is recorded, or was last."""
        self.unmeasured: dict[str, str] = {}
        """What of their parameters cannot be measured, and why."""
        self._table, self._scale, self._root = table, scale, root
        self._untouched = False
        self._known: dict[int, _Known] = {}

    def begin(self, optimizers: Sequence[Optimizer], untouched: bool) -> None:
        """Begin a step; `untouched` promises that nobody changes gradients unseen before an optimizer uses them."""
        self.all, self._untouched = list(optimizers), untouched

    def after_backward(self, optimizer: Optimizer) -> Moment:
        """Return the moment after a backward, before a GradScaler has unscaled anything."""
        return self._moment(optimizer, scaled=True)

    def before_step(self, optimizer: Optimizer) -> Moment:
        """Return the moment before the step of `optimizer`."""
        moment = self._moment(optimizer, scaled=self._scale.left_to(optimizer))
        return moment._replace(silent=self._scale.is_on() and not tells_of_steps(optimizer))

    def before_idle_step(self, optimizer: Optimizer) -> Moment:
        """Return the same for a step that is not recorded: by the parameters of the last that was, if there was one."""
        number = self._number(optimizer)
        known = self._known.get(number)
        if known is None or not known.holds(sum(len(group["params"]) for group in optimizer.param_groups)):
            return self.before_step(optimizer)
        return Moment(number, known.parameters, self._scale.tensor(), self._scale.left_to(optimizer))

    def after_step(self, optimizer: Optimizer) -> Moment:
        """Return the moment after the step of `optimizer`, with what the step tells of itself."""
        moment = self._moment(optimizer, overflow=self._scale.overflow(optimizer))
        return moment._replace(momenta=partial(momenta_in_gradients, optimizer))

    def sharded(self) -> tuple[int, ...]:
        """Return how many parameters each optimizer has, where any of them is not all here: else nothing."""
        known = [self._known.get(number) for number in range(len(self.all))]
        sizes = [(len(of.parameters.tensors), of.parameters.spread) if of is not None else (0, False) for of in known]
        return tuple(size for size, _ in sizes) if any(spread for _, spread in sizes) else ()

    def rows_left_out(self, model: nn.Module) -> set[int]:
        """Return the rows of layers of `model` with trainable parameters that no optimizer has."""
        owned = {id(p) for optimizer in self.all for group in optimizer.param_groups for p in group["params"]}
        if self.unmeasured or not owned:  # an optimizer may hold others in their place
            return set()
        present = set(model.modules())
        modules = [module for module in self._table.modules if module in present]
        trainable = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
        return {row for p in trainable if id(p) not in owned and (row := self._table.row_of_parameter(p)) >= 0}

    def _moment(self, optimizer: Optimizer, scaled: bool = False, overflow: Tensor | None = None) -> Moment:
        number = self._number(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        identities = [*map(id, parameters)]
        known = self._known.get(number)
        if known is None or not known.holds(len(parameters)) or known.identities != identities:
            lazy = [p for p in parameters if is_lazy(p)]
            owned = self._owned(optimizer, [p for p in parameters if not is_lazy(p)])
            known = self._known[number] = _Known(identities, lazy, owned)
        return Moment(number, known.parameters, self._scale.tensor(), scaled, overflow, self._untouched)

    def _number(self, optimizer: Optimizer) -> int:
        return next((i for i, o in enumerate(self.all) if o is optimizer), -1)

    def _owned(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> Parameters:
        self._table.find_parameters()
        if is_hidden(optimizer) or any(map(is_partitioned, parameters)):
            self.unmeasured[GRADIENTS] = DEEPSPEED
            parameters = []
        if any(map(is_flat, parameters)):
            self.unmeasured["parameters"] = FLAT
        rows = np.array([self._table.row_of_parameter(p) for p in parameters], dtype=np.int64)
        return Parameters(tuple(parameters), rows, parts_of(parameters, self._root))
