"""What is looked at in every step, recorded or not: did the optimizer step, is the loss a number, what came last."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.flight import FlightRecorder
from gradscope.model import provenance
from gradscope.model.autograd import back_from, operation
from gradscope.model.layers import LayerTable
from gradscope.model.moment import Moment
from gradscope.model.optimizers import tells_of_steps
from gradscope.model.scaling import LossScale
from gradscope.model.sharding import local
from gradscope.model.trace import Trace, tensors_in
from gradscope.records import Flight, Ledger, Origin

MICRO_BATCHES = 1000
"""Losses of a step that are kept at most, the latest: a fit in which no optimizer steps must not fill the memory."""


class StepWatch:
    """Counts steps, keeps the flight recorder, and finds where the first NaN was born.

    `step` is the step that is going on, on the x-axis of the loggers. On the CPU each loss and the sampled gradient
    norms are looked at; on any other device nothing is, since that would wait for it.
    """

    def __init__(self, table: LayerTable, trace: Trace, scale: LossScale, flight_steps: int) -> None:
        self.origin: Origin | None = None
        self._table, self._trace, self._scale = table, trace, scale
        self._flight = FlightRecorder(table, flight_steps) if flight_steps else None
        self._handles: list[RemovableHandle] = []
        self._hooked: list[Optimizer] = []
        self._steps, self._counted, self._missed = 0, 0, 0
        self._losses: list[Tensor] = []
        self._open: set[Optimizer] = set()
        self._overflows: Tensor | None = None
        self._overflowed: Tensor | None = None
        self._suspected: Origin | None = None
        self._error: Exception | None = None
        self._rests = False

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Attach to the steps of `optimizers` until `detach`."""
        for optimizer in optimizers:
            if tells_of_steps(optimizer):
                self._handles.append(optimizer.register_step_pre_hook(self.count))
                self._handles.append(optimizer.register_step_post_hook(self._after_optimizer_step))
                self._hooked.append(optimizer)

    def detach(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._hooked = [], []

    def rest(self) -> None:
        """Keep no flight from now on: of some steps `count` and `end_batch` alone will be told."""
        self._rests = True

    def before_backward(self, step: int, loss: Tensor, batch: object) -> None:
        """Look at `loss`, between forward and backward."""
        here = local(loss)
        if self.origin is None and here.is_cpu and here.numel() == 1 and not math.isfinite(here.item()):
            self._suspected = self._born_forward(step, loss, batch)

    def before_optimizer_step(self, step: int, optimizer: Optimizer, moment_of: Callable[[Optimizer], Moment]) -> None:
        """Look at the gradients that `optimizer` is about to use; `moment_of` gives its parameters."""
        self.count(optimizer)
        if self._flight is None:
            return
        moment = moment_of(optimizer)
        norms = self._flight.before_optimizer_step(moment)
        if self.origin or self._suspected or not norms or not norms[0].is_cpu:
            return
        if not all(math.isfinite(norm.item()) for norm in norms):
            self._suspected = self._born_backward(step, moment)

    def count(self, optimizer: Optimizer, *_: object) -> None:
        """Count a step of `optimizer` once, whether Lightning announces it or torch's hook tells of it."""
        if optimizer in self._open:  # LBFGS evaluates its closure several times within one, and steps call others
            return
        self._steps += 1
        if any(optimizer is hooked for hooked in self._hooked):  # of any other it is not known whether it stepped
            self._open.add(optimizer)

    def end_batch(self, step: int, loss: Tensor | None) -> None:
        """End a micro-batch, and the step with it where an optimizer stepped; `loss` has one element."""
        if self._error is not None:
            raise self._error
        if loss is not None:
            self._losses.append(loss.detach().clone())  # the user may write on into it
        if self._steps == self._counted:
            del self._losses[:-MICRO_BATCHES]
            return
        self._counted = self._steps
        # With a GradScaler an overflow is how it finds its scale: what it skips is no disaster.
        skipped = bool(self._open) or (self._overflowed is not None and bool(self._overflowed))
        self.origin = self.origin or (None if skipped else self._suspected)
        self._suspected = self._overflowed = None
        self._missed += len(self._open)
        self._open.clear()
        if self._flight is not None and not self._rests:
            self._flight.end(step, self._losses)
        self._losses = []

    def ledger(self) -> Ledger:
        """Return the count of steps; waits for the device where a fused optimizer keeps its own."""
        overflows = 0 if self._overflows is None else int(self._overflows)
        return Ledger(self._steps, self._missed + overflows)

    def restore(self, window: Flight | None) -> None:
        """Go on from the last steps of a fit that this one resumes."""
        if self._flight is not None and window is not None:
            self._flight.restore(window)

    def flight(self) -> Flight | None:
        """Return the last steps, every one of them: None where none are kept."""
        return self._flight.flight() if self._flight is not None and not self._rests else None

    def _after_optimizer_step(self, optimizer: Optimizer, *_: object) -> None:
        self._open.discard(optimizer)
        try:
            self._count_overflow(optimizer)
        except Exception as error:  # raised where it does not end the user's step
            self._error = error

    def _count_overflow(self, optimizer: Optimizer) -> None:
        overflow = self._scale.overflow(optimizer)
        if overflow is None:
            return
        found = (overflow > 0).sum()
        self._overflows = found if self._overflows is None else self._overflows + found
        if self._suspected is not None:
            self._overflowed = found

    def _born_forward(self, step: int, loss: Tensor, batch: object) -> Origin:
        if any(map(provenance.is_bad, tensors_in(batch))):
            return Origin(step, "", "batch")
        suspect = provenance.first_bad(loss)
        if suspect is None:
            return Origin(step, "", "forward")
        parameter = provenance.bad_parameter(suspect.node)
        if parameter is not None:
            return Origin(step, self._owner(parameter), "weight")
        module = self._module_of(suspect, loss)
        return Origin(step, module, "forward", "" if suspect.before else operation(suspect.node))

    def _module_of(self, suspect: provenance.Suspect, loss: Tensor) -> str:
        known = self._trace.fits(loss)
        module = self._trace.innermost(back_from(loss, suspect.node)) if known else None
        if module is not None and suspect.before:
            module = self._trace.before(module) or module
        if module is not None:
            return self._table.names[module]
        parameter = provenance.nearest_parameter(suspect.node)
        return "" if known or parameter is None else self._owner(parameter)

    def _owner(self, parameter: Tensor) -> str:
        row = self._table.row_of_parameter(parameter)
        return self._table.rows[row].name if row >= 0 else ""

    def _born_backward(self, step: int, moment: Moment) -> Origin:
        """A backward infects what stands before: the last layer with a bad gradient is where it was born, or behind."""
        bad = {
            int(row)
            for row, p in zip(moment.parameters.rows, moment.parameters.tensors, strict=True)
            if row >= 0 and p.grad is not None and provenance.is_bad(p.grad)
        }
        order = [int(row) for row in self._table.order()[0] if row in bad]
        if not order:
            return Origin(step, "", "backward")
        name = self._table.rows[order[-1]].name
        module = next((m for m, known in self._table.names.items() if known == name), None)
        behind = self._trace.after(module) if module is not None else None
        return Origin(step, self._table.names[behind] if behind is not None else name, "backward")


def earliest_origin(seen: Origin | None, inferred: Origin | None, before: Origin | None) -> Origin | None:
    """Return the earliest origin known: a module `seen` to give out a bad number goes before what was `inferred`."""
    if seen is not None and inferred is not None and seen.step == inferred.step:
        return replace(seen, operation=inferred.operation)
    known = [o for o in (before, seen, inferred) if o is not None]
    return min(known, key=lambda o: o.step, default=None)
