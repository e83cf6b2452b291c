"""Attaches probes to a model for the length of one step, and turns what they measured into a record."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.activations import Activation
from gradscope.model.forward import CUDA_GRAPHS, MAPPED, UNTRACED, ForwardWatch
from gradscope.model.layers import LayerTable, activation_of
from gradscope.model.optimizers import Optimizers, tells_of_steps
from gradscope.model.outputs import OutputWatch
from gradscope.model.scaling import LossScale
from gradscope.model.sharding import (
    ALONE,
    GRADIENTS,
    SUMMAND,
    is_hidden,
    is_partial,
    local,
    unit_slice,
)
from gradscope.probes import PROBES, Probe
from gradscope.probes.layout import Layout
from gradscope.probes.liveness import unit_dimension
from gradscope.probes.probe import Measured, Pending
from gradscope.ranks.merging import RankMerge, Sent
from gradscope.records import (
    LOSS,
    NONFINITE_LOSS,
    SKIPPED,
    TOTAL_NORM,
    Coverage,
    Floats,
    Layer,
    Metric,
    Origin,
    Record,
)
from gradscope.thresholds import Thresholds
from gradscope.transfer import Transfer

T = TypeVar("T")


class Recorder:
    """Records steps of one model.

    A step goes `begin`, forward, backward, `before_optimizer_step`, the optimizer's step, `end_batch`, `end`;
    with several micro-batches the first and `begin_batch` to `end_batch` repeat. `poll` then gives its record: at
    once on the CPU, as soon as the copy has arrived on CUDA. Hooks are on the model and its optimizers between
    `begin` and `end` or `detach`, at no other time (but for compiled code: see `ForwardWatch`), and see forwards only
    while `listening`. Whatever fails inside stands in `failures`, and a probe is off from then on; nothing here raises
    into the training.
    """

    def __init__(
        self,
        model: nn.Module,
        thresholds: Thresholds,
        watch: Callable[[str], bool],
        *,
        exact: bool = False,
        scale: LossScale | None = None,
        merge: RankMerge | None = None,
        wrapped: nn.Module | None = None,
    ) -> None:
        """Prepare for `model`; `wrapped` is what a strategy has made of it, where that is another module around it."""
        self.table = LayerTable(model, watch)
        self._model = model
        self.columns = _columns(probes := [probe(thresholds, exact) for probe in PROBES])
        self.failures: dict[str, str] = {}
        """What failed, and with what error: a probe, or a probe at one layer, which is off then, or something else."""
        self.stepped = False
        """Whether an optimizer has stepped, or tried to, since `begin`."""
        lasting = [m for m in self.table.modules if activation_of(m) is not None]
        self.forward = ForwardWatch(model, self.table.modules, lasting, self._see, self._see_function, self.failures)
        self._probes: dict[str, Probe] = {type(p).__name__: p for p in probes}
        self._observers = [(n, p) for n, p in self._probes.items() if type(p).observe is not Probe.observe]
        self._scale = scale or LossScale(None)
        self.optimizers = Optimizers(self.table, self._scale, wrapped or model)
        self._merge = merge
        self._arrived: list[Record] = []
        self._micro_batches = 0
        self._handles: list[RemovableHandle] = []
        self._losses: list[Tensor] = []
        self._producer: nn.Module | None = None
        self._producers: dict[int, nn.Module | None] = {}
        """What was seen to feed the activation in each row, for steps in which only activations are looked at."""
        self._in_flight: list[_InFlight] = []
        self._announced: set[Optimizer] = set()
        self._outputs: OutputWatch | None = None
        self._seconds = 0.0
        self.origin: Origin | None = None
        """The module that first gave out a NaN or an infinity in a step that was watched in full."""
        self._suspect: str | None = None
        self._remembered: dict[str, dict[str, Tensor]] = {}
        if merge is not None:
            merge.attach(self.table, self._probes, self.failures, self._shielded)

    @property
    def listening(self) -> bool:
        """Whether forwards are seen."""
        return self.forward.listening

    @listening.setter
    def listening(self, on: bool) -> None:
        self.forward.listening = on

    @property
    def seconds(self) -> float:
        """Host time spent in hooks on the model and on the optimizers."""
        return self._seconds + self.forward.seconds

    def begin(
        self,
        optimizers: Sequence[Optimizer],
        untouched: bool = False,
        everything: bool = False,
    ) -> None:
        """Attach to the model and to `optimizers`, and listen to the first micro-batch.

        `untouched` promises that nobody changes gradients between `before_optimizer_step` and the optimizer without
        autograd knowing of it. With `everything` the step is watched in full: the output of each module is looked at.
        """
        self.detach()
        self.stepped = False
        self.optimizers.begin(optimizers, untouched)
        self._announced.clear()
        self._losses = []
        self._micro_batches = 0
        self._outputs = OutputWatch(self.table) if everything else None
        for optimizer in optimizers:
            if is_hidden(optimizer) or not tells_of_steps(optimizer):
                continue
            with self._shielded(f"hook at {type(optimizer).__name__}"):
                self._handles.append(optimizer.register_step_pre_hook(self._unannounced_step))
                self._handles.append(optimizer.register_step_post_hook(self._after_optimizer_step))
        self.begin_batch()

    def begin_batch(self) -> None:
        """Listen to a micro-batch, in which each module's next call is its first."""
        self._micro_batches += 1
        self.table.restart_calls()
        self._producer = None
        self._tell_probes(lambda probe: probe.begin_batch())
        with self._shielded("forward hooks"):
            self.forward.attach(self._outputs is not None)
        self.listening = True

    def end_forward(self) -> None:
        """Take the hooks off the model: this micro-batch has no further forward that counts."""
        self.forward.detach()

    def after_backward(self) -> None:
        """Measure what a backward of manual optimization left, before the user clips it."""
        for moment in map(self.optimizers.after_backward, self.optimizers.all):
            # As a default, which has no type: a closure would take the last moment of the loop.
            self._tell_probes(lambda probe, moment=moment: probe.after_backward(moment))  # type: ignore[misc]

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Measure gradients that are not clipped yet."""
        self.stepped = True
        self._announced.add(optimizer)
        moment = self.optimizers.before_step(optimizer)
        self._tell_probes(lambda probe: probe.before_optimizer_step(moment))

    def end_batch(self, loss: Tensor | None) -> None:
        """Stop listening; `loss` is that of the micro-batch, of one element, or None where there was none."""
        self.listening = False
        for optimizer in self._silent():
            self._after_optimizer_step(optimizer)
        if loss is not None:
            self._losses.append(loss.detach().reshape(()).clone())  # the user may write on into it

    def _silent(self) -> list[Optimizer]:
        """Optimizers that tell nothing and have stepped: with a GradScaler it is not known whether they have."""
        return [] if self._scale.is_on() else [o for o in self._announced if not (tells_of_steps(o) or is_hidden(o))]

    def end(self, step: int) -> None:
        """Detach, and send off the copy of what was measured in `step`."""
        self.detach()
        self._remind_probes()
        sent = self._share()
        pending = self._tell_probes(lambda probe: probe.finish(len(self.table.rows)))
        with self._shielded("transfer"):
            loss = [torch.stack(self._losses).mean()] if self._losses else []
            parts = [*pending, ("loss", Pending(loss, _loss))]
            if self._outputs is not None:
                parts.append(("outputs", self._finish_outputs(self._outputs)))
            tensors = [t for _, part in parts for t in part.tensors]
            transfer = Transfer(tensors, sent.numbers if sent is not None else None)
            layout = sent.layout if sent is not None else None
            self._in_flight.append(_InFlight(step, time.time(), *self.table.order(), parts, transfer, layout))

    def _share(self) -> Sent | None:
        """Sum this record's numbers over the ranks. They have to know by then what the last record told of them."""
        if self._merge is None or self._merge.ended:
            return None
        while (record := self._next(wait=True)) is not None:
            self._arrived.append(record)
        return self._merge.send(self._losses, self._micro_batches, self.optimizers.sharded())

    def poll(self, wait: bool = False) -> Record | None:
        """Return the oldest record that has not been returned yet: None where none has arrived.

        With `wait` it waits for a copy that is under way.
        """
        return self._arrived.pop(0) if self._arrived else self._next(wait)

    def _next(self, wait: bool) -> Record | None:
        if not self._in_flight or not (wait or self._in_flight[0].transfer.ready()):
            return None
        return self._record(self._in_flight.pop(0))

    def memory(self) -> dict[str, dict[str, Tensor]]:
        """Return what probes remember from one record to the next, by probe and layer. Waits for the device."""
        names = [layer.name for layer in self.table.rows]
        fresh = {
            probe: {names[row]: units for row, units in self._of_all_ranks(probe, own).items()}
            for probe, own in self._tell_probes(lambda probe: probe.memory())
        }
        return {probe: by_layer for probe in fresh if (by_layer := self._remembered.get(probe, {}) | fresh[probe])}

    def _of_all_ranks(self, probe: str, own: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
        memory = self._merge.memory(probe) if self._merge is not None else None
        return own if memory is None else memory

    def remember(self, memory: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from the `memory` of another recorder, in the layers that have the same names here."""
        self._remembered = {probe: dict(by_layer) for probe, by_layer in memory.items()}

    def detach(self) -> None:
        """Take every hook off. Harmless where none is on."""
        self.forward.detach()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def release(self) -> None:
        """Take off what compiled code keeps, too."""
        self.detach()
        self.forward.release()

    def coverage(self) -> Coverage:
        """Return what has been measured so far, what has not, and why."""
        names = [layer.name for layer in self.table.rows]
        silent = set(self.table.never_ran())
        left_out = [names[row] for row in self.optimizers.rows_left_out(self._model)]
        idle = dict.fromkeys(left_out, "has trainable parameters that are in no optimizer")
        measured = {
            "layers with parameters": len(self.table.rows) - len(self.table.activations),
            "activation modules": len({r for r in self.table.activations if r not in silent} - self.table.functions),
            "activation functions": len(self.table.functions),
        }
        new = dict.fromkeys(self.table.newcomers(self._model), "came into the model after the fit began")
        unseen = {**self._never_ran(), **idle, **new, **self.forward.unseen(), **self._partly_unmeasured()}
        return Coverage(unseen | self.failures, measured)

    def _never_ran(self) -> dict[str, str]:
        """Activations that were not heard, and why."""
        why = dict.fromkeys(self.table.never_ran(), "an activation that never ran as a module in a recorded step")
        for _, root in self.forward.compiled:
            compiled = CUDA_GRAPHS if root in self.forward.out_of_reach else UNTRACED
            why.update(dict.fromkeys(why.keys() & self.table.rows_within(root), compiled))
        mapped = {row for module in self.forward.mapped.values() for row in self.table.rows_of(module)}
        why.update(dict.fromkeys(why.keys() & mapped, MAPPED))
        return {self.table.rows[row].name: reason for row, reason in why.items() if row in self.table.activations}

    def _partly_unmeasured(self) -> dict[str, str]:
        rows = {row: why for probe in self._probes.values() for row, why in probe.unmeasured.items()}
        alone = self.optimizers.sharded() and (self._merge is None or self._merge.ended)
        whole = {**self.optimizers.unmeasured, **({GRADIENTS: ALONE} if alone else {})}
        return {self.table.rows[row].name: why for row, why in rows.items()} | whole

    # What follows runs inside hooks and copies.

    def _see(self, module: nn.Module, output: object) -> None:
        if self._outputs is not None:
            self._outputs.see(module, output)
        row = self.table.row_of_call(module)
        if row is None:
            return
        activation = self.table.activations.get(row)
        if activation is not None:
            self._observe(row, activation, output)
        elif self.table.rows[row].kind != "parameters":
            self._producer = module  # what any other module does with the units is not known

    def _see_function(self, caller: nn.Module, name: str, activation: Activation, output: object) -> None:
        row = self.table.row_of_function(caller, name, activation)
        if row is not None:
            self._observe(row, activation, output)

    def _observe(self, row: int, activation: Activation, given_out: object) -> None:
        output = self._readable(row, given_out)
        if output is None or not output.numel():
            return
        if self.forward.learning:
            self._producers[row] = self._producer
        elif row not in self._producers:
            self.forward.learn_again()  # what feeds it has no hook now
            if output.dim() > 2:
                return  # and which of its dimensions counts units is not known: it is measured from the next record on
        producer = self._producers.get(row)
        if self._merge is not None:
            self._compare(self._merge, row, output, producer)
        for probe_name, probe in self._observers:
            if self.failures and (probe_name in self.failures or self._slot(probe_name, row) in self.failures):
                continue
            try:
                probe.observe(row, activation, output, producer)
            except Exception as error:
                self._failed(self._slot(probe_name, row), error)

    def _readable(self, row: int, output: object) -> Tensor | None:
        """The part of what an activation gave out that is here: None, and a reason, where it cannot be measured."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            what = output.dtype if isinstance(output, Tensor) else type(output).__name__
            reason = f"not measured: an activation must give out a real floating tensor, got {what}"
            self.failures[self.table.rows[row].name] = reason
            return None
        if type(output) is Tensor:  # as nearly always: of any other there may be other parts elsewhere
            return output.detach()
        if is_partial(output):
            self.failures[self.table.rows[row].name] = f"not measured: {SUMMAND}"
            return None
        return local(output).detach()

    def _compare(self, merge: RankMerge, row: int, output: Tensor, producer: nn.Module | None) -> None:
        """Have the ranks compare an activation with each other where all of them see the same units of it."""
        if row not in merge.comparable:
            units = output.shape[unit_dimension(output, producer)] if output.dim() else 1
            merge.comparable[row] = unit_slice(producer, units) == (0, units)

    def _slot(self, probe_name: str, row: int) -> str:
        return f"{probe_name} at {self.table.rows[row].name}"

    def _unannounced_step(self, optimizer: Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        # An optimizer that the user steps past Lightning. With a closure its gradients are still to come.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first argument is the optimizer
        if optimizer not in self._announced and closure is None:
            self.before_optimizer_step(optimizer)

    def _after_optimizer_step(self, optimizer: Optimizer, *_: object) -> None:
        start = time.perf_counter()
        self.stepped = True
        self._announced.discard(optimizer)
        moment = self.optimizers.after_step(optimizer)
        self._tell_probes(lambda probe: probe.after_optimizer_step(moment))
        self._seconds += time.perf_counter() - start

    def _remind_probes(self) -> None:
        """Hand on what is remembered of layers that have a row by now: a function has one once it was called."""
        rows = {layer.name: row for row, layer in enumerate(self.table.rows)} if self._remembered else {}
        for name, by_layer in self._remembered.items():
            known = {rows[layer]: by_layer.pop(layer) for layer in rows.keys() & by_layer.keys()}
            if known and name in self._probes:
                with self._shielded(name):
                    self._probes[name].remember(known)
                    if self._merge is not None:
                        self._merge.remember(name, known)
        self._remembered = {name: by_layer for name, by_layer in self._remembered.items() if by_layer}

    def _finish_outputs(self, outputs: OutputWatch) -> Pending:
        names, marks = outputs.finish()

        def resolve(copy: Floats) -> Measured:
            bad = np.flatnonzero(~np.isfinite(copy))
            self._suspect = names[bad[0]] if len(bad) else None
            return Measured({})

        return Pending(marks, resolve)

    def _tell_probes(self, tell: Callable[[Probe], T]) -> list[tuple[str, T]]:
        answers = []
        for name, probe in self._probes.items():
            if name in self.failures:
                continue
            try:
                answers.append((name, tell(probe)))
            except Exception as error:
                self._failed(name, error)
        return answers

    @contextlib.contextmanager
    def _shielded(self, slot: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed(slot, error)

    def _failed(self, slot: str, error: Exception) -> None:
        # Whatever fails in here must not end the training. A probe is off from then on; all else is tried again.
        what = "switched off after" if slot.partition(" at ")[0] in self._probes else "failed with"
        self.failures[slot] = f"{what} {type(error).__name__}: {error}"
        if slot in self._probes:
            self._probes[slot].forget()

    def _record(self, flight: "_InFlight") -> Record:
        measured: dict[str, Measured] = {}
        rest = flight.transfer.numpy()
        self._suspect = None
        for name, part in flight.parts:
            size = sum([t.numel() for t in part.tensors])
            try:
                measured[name] = part.resolve(rest[:size])
            except Exception as error:
                self._failed(name, error)
            rest = rest[size:]
        if flight.layout is not None:
            measured |= self._merged(flight, flight.layout, measured)
        # Python's own numbers: a checkpoint that holds those of numpy is refused by torch.load(weights_only=True).
        totals = {name: float(value) for m in measured.values() for name, value in m.globals.items()}
        if self.origin is None and self._suspect is not None and _went_wrong(totals):
            self.origin = Origin(flight.step, self._suspect, "forward")
        metrics = _joined([*measured.values()], flight.order)
        return Record(flight.step, flight.wall_time, flight.layers, metrics, totals)

    def _merged(self, flight: "_InFlight", layout: Layout, own: Mapping[str, Measured]) -> dict[str, Measured]:
        assert self._merge is not None
        rows = self.table.rows[: len(flight.order)]
        try:
            return self._merge.resolve(flight.transfer.exact(), layout, flight.step, rows, own)
        except Exception as error:
            self._merge.off = f"failed with {type(error).__name__}: {error}"
            return {}


class _InFlight(NamedTuple):
    """A step whose numbers are under way: `order` and `layers` are the rows and their layers as they stand in it."""

    step: int
    wall_time: float
    order: npt.NDArray[np.int64]
    layers: tuple[Layer, ...]
    parts: list[tuple[str, Pending]]
    transfer: Transfer
    layout: Layout | None


def _went_wrong(totals: Mapping[str, float]) -> bool:
    """Say whether a NaN or an infinity reached the loss or a gradient, and no GradScaler skipped the step."""
    bad = totals.get(NONFINITE_LOSS, 0) == 1 or not math.isfinite(totals.get(TOTAL_NORM, 0))
    return bad and totals.get(SKIPPED, 0) != 1


def _loss(copy: Floats) -> Measured:
    return Measured({}, {LOSS: float(copy[0]), NONFINITE_LOSS: float(~np.isfinite(copy[0]))} if len(copy) else {})


def _columns(probes: Sequence[Probe]) -> tuple[Metric, ...]:
    return tuple({metric.name: metric for probe in probes for metric in probe.metrics}.values())


def _joined(measured: Sequence[Measured], order: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """All metrics in `order` of rows; where two probes measure the same one, their values are added up."""
    metrics: dict[str, Floats] = {}
    for part in measured:
        for name, values in part.metrics.items():
            metrics[name] = _added(metrics[name], values) if name in metrics else values
    return dict(zip(metrics, np.array([*metrics.values()])[:, order], strict=True)) if metrics else {}


def _added(a: Floats, b: Floats) -> Floats:
    """The sum of both where both were measured, else the one that was."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + b))
