"""Attaches probes to a model for the length of one step, and turns what they measured into a record."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.activations import Activation
from gradscope.layers import LayerTable
from gradscope.probes import PROBES, Probe
from gradscope.probes.probe import Measured, OwnedParameter, Pending
from gradscope.records import LOSS, NONFINITE_LOSS, Coverage, Floats, Layer, Metric, Record
from gradscope.thresholds import Thresholds
from gradscope.transfer import Transfer

T = TypeVar("T")


class Recorder:
    """Records steps of one model.

    A step goes `begin`, forward, backward, `before_optimizer_step`, the optimizer's step, `end_batch`, `end`;
    with several micro-batches the first and `begin_batch` to `end_batch` repeat. `poll` then gives its record: at
    once on the CPU, as soon as the copy has arrived on CUDA. Hooks are on the model and its optimizers between
    `begin` and `end` or `detach`, at no other time, and see forwards only while `listening`. Whatever fails
    inside switches itself off and stands in `failures`; nothing here raises into the training.
    """

    def __init__(self, model: nn.Module, thresholds: Thresholds, watch: Callable[[str], bool]) -> None:
        self.table = LayerTable(model, watch)
        self.columns = _columns(probes := [probe(thresholds) for probe in PROBES])
        self.failures: dict[str, str] = {}
        """What switched itself off, a probe or a probe at one layer, and the error that made it."""
        self.listening = False
        self.stepped = False
        """Whether an optimizer has stepped, or tried to, since `begin`."""
        self.seconds = 0.0
        """Host time spent in hooks on the model and on the optimizers."""
        self._probes: dict[str, Probe] = {type(p).__name__: p for p in probes}
        self._optimizers: list[Optimizer] = []
        self._handles: list[RemovableHandle] = []
        self._losses: list[Tensor] = []
        self._producer: nn.Module | None = None
        self._in_flight: list[_InFlight] = []
        self._announced: set[Optimizer] = set()

    def begin(self, optimizers: Sequence[Optimizer]) -> None:
        """Attach to the model and to `optimizers`, and listen to the first micro-batch."""
        self.detach()
        self.stepped = False
        self._optimizers = list(optimizers)
        self._announced.clear()
        self._losses = []
        hook = _ForwardHook(self)
        for module in self.table.hookable():
            with self._shielded(f"hook at {type(module).__name__}"):
                self._handles.append(module.register_forward_hook(hook))
        for optimizer in optimizers:
            with self._shielded(f"hook at {type(optimizer).__name__}"):
                self._handles.append(optimizer.register_step_pre_hook(self._unannounced_step))
                self._handles.append(optimizer.register_step_post_hook(self._after_optimizer_step))
        self.begin_batch()

    def begin_batch(self) -> None:
        """Listen to a micro-batch, in which each module's next call is its first."""
        self.table.restart_calls()
        self._producer = None
        self._tell_probes(lambda probe: probe.begin_batch())
        self.listening = True

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Measure gradients that are unscaled and not clipped yet."""
        self.stepped = True
        self._announced.add(optimizer)
        number, parameters = self._parameters(optimizer)
        self._tell_probes(lambda probe: probe.before_optimizer_step(number, parameters))

    def end_batch(self, loss: Tensor | None) -> None:
        """Stop listening; `loss` is that of the micro-batch, of one element, or None where there was none."""
        self.listening = False
        if loss is not None:
            self._losses.append(loss.detach().reshape(()))

    def end(self, step: int) -> None:
        """Detach, and send off the copy of what was measured in `step`."""
        self.detach()
        pending = self._tell_probes(lambda probe: probe.finish(len(self.table.rows)))
        loss = [torch.stack(self._losses).mean()] if self._losses else []
        parts = [*pending, ("loss", Pending(loss, _loss))]
        with self._shielded("transfer"):
            transfer = Transfer([t for _, part in parts for t in part.tensors])
            self._in_flight.append(_InFlight(step, time.time(), *self.table.order(), parts, transfer))

    def poll(self, wait: bool = False) -> Record | None:
        """Return the oldest record that has not been returned yet: None where none has arrived.

        With `wait` it waits for a copy that is under way.
        """
        if not self._in_flight or not (wait or self._in_flight[0].transfer.ready()):
            return None
        return self._record(self._in_flight.pop(0))

    def detach(self) -> None:
        """Take every hook off. Harmless where none is on."""
        self.listening = False
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def coverage(self) -> Coverage:
        """Return what has not been seen so far, and why."""
        names = [layer.name for layer in self.table.rows]
        never = {
            names[row]: "an activation that never ran as a module in a recorded step"
            for row in self.table.never_ran()
            if row in self.table.activations
        }
        idle = {names[row]: "trainable, but in no optimizer" for row in self._rows_in_no_optimizer() if row >= 0}
        return Coverage({**never, **idle, **self.failures})

    def _rows_in_no_optimizer(self) -> set[int]:
        owned = {id(p) for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]}
        parameters = [p for module in self.table.modules for p in module.parameters(recurse=False)]
        return {self.table.row_of_parameter(p) for p in parameters if owned and p.requires_grad and id(p) not in owned}

    # What follows runs inside hooks and copies.

    def ran(self, module: nn.Module, output: object) -> None:
        """See `output` of `module`: called by the forward hook while listening."""
        start = time.perf_counter()
        try:
            # A backward that runs forwards again, as checkpointing does, has been seen; what torch.func maps over
            # is not a batch.
            recomputed = torch._C._current_graph_task_id() != -1
            mapped = isinstance(output, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(output)
            if not recomputed and not mapped:
                self._see(module, output)
        except Exception as error:
            self._failed("forward hook", error)
        self.seconds += time.perf_counter() - start

    def _see(self, module: nn.Module, output: object) -> None:
        row = self.table.row_of_call(module)
        if row is None:
            return
        if row in self.table.activations:
            self._observe(row, self.table.activations[row], output)
        elif self.table.rows[row].kind != "parameters":
            self._producer = module  # what any other module does with the units is not known

    def _observe(self, row: int, activation: Activation, output: object) -> None:
        name = self.table.rows[row].name
        if not isinstance(output, Tensor) or not output.is_floating_point():
            what = output.dtype if isinstance(output, Tensor) else type(output).__name__
            self.failures[name] = f"not measured: an activation must give out a real floating tensor, got {what}"
            return
        if not output.numel():
            return
        for probe_name, probe in self._probes.items():
            slot = f"{probe_name} at {name}"
            if probe_name not in self.failures and slot not in self.failures:
                try:
                    probe.observe(row, activation, output.detach(), self._producer)
                except Exception as error:
                    self._failed(slot, error)

    def _unannounced_step(self, optimizer: Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        # An optimizer that the user steps past Lightning. With a closure its gradients are still to come.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first argument is the optimizer
        if optimizer not in self._announced and closure is None:
            self.before_optimizer_step(optimizer)

    def _after_optimizer_step(self, optimizer: Optimizer, *_: object) -> None:
        start = time.perf_counter()
        self.stepped = True
        self._announced.discard(optimizer)
        number, parameters = self._parameters(optimizer)
        self._tell_probes(lambda probe: probe.after_optimizer_step(number, parameters))
        self.seconds += time.perf_counter() - start

    def _parameters(self, optimizer: Optimizer) -> tuple[int, list[OwnedParameter]]:
        number = next((i for i, o in enumerate(self._optimizers) if o is optimizer), -1)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if not is_lazy(p)]
        return number, [OwnedParameter(self.table.row_of_parameter(p), p) for p in parameters]

    def _tell_probes(self, tell: Callable[[Probe], T]) -> list[tuple[str, T]]:
        answers = []
        for name, probe in self._probes.items():
            if name not in self.failures:
                with self._shielded(name):
                    answers.append((name, tell(probe)))
        return answers

    @contextlib.contextmanager
    def _shielded(self, slot: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed(slot, error)

    def _failed(self, slot: str, error: Exception) -> None:
        # Whatever fails in here must not end the training.
        self.failures[slot] = f"switched off after {type(error).__name__}: {error}"

    def _record(self, flight: "_InFlight") -> Record:
        measured = []
        rest = flight.transfer.numpy()
        for name, part in flight.parts:
            size = sum(t.numel() for t in part.tensors)
            with self._shielded(name):
                measured.append(part.resolve(rest[:size]))
            rest = rest[size:]
        return Record(
            step=flight.step,
            wall_time=flight.wall_time,
            layers=flight.layers,
            metrics=_merged(measured, flight.order),
            globals={name: value for m in measured for name, value in m.globals.items()},
        )


class _InFlight(NamedTuple):
    """A step whose numbers are under way: `order` and `layers` are the rows and their layers as they stand in it."""

    step: int
    wall_time: float
    order: npt.NDArray[np.int64]
    layers: tuple[Layer, ...]
    parts: list[tuple[str, Pending]]
    transfer: Transfer


class _ForwardHook:
    """Tells a recorder what a module gave out. A copy made of it along with its module, or a pickle, does nothing."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, module: nn.Module, args: Any, output: object) -> None:
        # The first is a constant while torch.compile traces: the compiled graph then holds nothing of this.
        if not torch.compiler.is_compiling() and self._recorder.listening:
            self._recorder.ran(module, output)

    def __reduce__(self) -> tuple[object, ...]:
        # A function of the standard library that takes three arguments and returns None, so that the copy of a
        # model neither reports here nor needs this package to be read.
        return getattr, (nullcontext(), "__exit__")


def _loss(copy: Floats) -> Measured:
    return Measured({}, {LOSS: float(copy[0]), NONFINITE_LOSS: float(~np.isfinite(copy[0]))} if len(copy) else {})


def _columns(probes: Sequence[Probe]) -> tuple[Metric, ...]:
    return tuple({metric.name: metric for probe in probes for metric in probe.metrics}.values())


def _merged(measured: Sequence[Measured], order: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """All metrics in `order` of rows; where two probes measure the same one, their values are added up."""
    metrics: dict[str, Floats] = {}
    for part in measured:
        for name, values in part.metrics.items():
            if name in metrics:
                both = np.stack((metrics[name], values[order]))
                values = np.where(np.isnan(both).all(axis=0), np.nan, np.nansum(both, axis=0)).astype(np.float32)
                metrics[name] = values
            else:
                metrics[name] = values[order]
    return metrics
