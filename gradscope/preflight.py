"""What can be told of a model and its optimizers before the first step: the facts of a `Setup`, not what they mean."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.model.autograd import SHAPES
from gradscope.model.graph import BATCH_NORMS, POOLS, Graph, is_weight_layer
from gradscope.model.outputs import is_mapped
from gradscope.model.sharding import is_distributed, is_sharded
from gradscope.recorder import Recorder
from gradscope.records import InitialWeights, InputMoments, OutputActivation, SaturatingStack, Setup
from gradscope.stats import l2_norms, moments, sample, spectral_excess
from gradscope.transfer import Transfer

SLOT = "preflight"

TRAINED = 1.15
"""The `spectral_excess` above which weights are not drawn but trained, as when a second fit goes on with a model."""

INPUT_SAMPLE = 4096
"""Elements of the first batch from which its mean and variance are estimated."""

_SLOPES = {"sigmoid": 0.25, "hardsigmoid": 1 / 6, "tanh": 1.0}
"""The steepest slope of each bounded activation that autograd knows by one name."""

_LIMITED = {"relu", "sigmoid", "softmax", "tanh"}
"""Activations that limit the logits."""

_UNITS = SHAPES | POOLS

_LOSS_ARITHMETIC = {
    "add", "div", "exp", "gather", "index", "log", "maskedfill", "maskedselect", "mean", "mul", "neg", "nllloss",
    "nllloss2d", "nlllossnd", "pow", "rsub", "sub", "sum", "where",
} | SHAPES  # fmt: skip
"""What a loss makes of log-probabilities."""


class Preflight:
    """Collects the `Setup` of a model in the first step of a fit that is recorded.

    A step goes `begin`, then `before_backward` with each loss, between forward and backward, then `end_batch`; the
    first `end_batch` after a loss is the last that is looked at. It reads the graph of the loss, which autograd keeps
    anyway; numbers stay on the device until their one copy has arrived. Whatever fails switches it off and stands in
    the recorder's failures.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._open = True
        self._from_scratch = False
        self._optimizers: Sequence[Optimizer] = ()
        self._used: dict[int, Tensor] = {}
        self._facts = _Facts()
        self._setup = Setup()
        self._pending: Transfer | None = None
        self._before: Setup | None = None

    @property
    def is_done(self) -> bool:
        """Whether all is known that a forward tells."""
        return not self._open

    def setup(self, wait: bool = False) -> Setup:
        """Return what is known so far: without weights and inputs while their copy is on its way, unless it shall wait.

        Of a fit that goes on from another what that one had known, until all is known but what it began with.
        """
        if self._pending is not None and (wait or self._pending.ready()):
            with self._shielded():
                self._setup = self._facts.setup(self._setup, self._pending.numpy().tolist())
            self._pending = None
        if self._before is None or self._open:
            return self._before or self._setup
        return replace(
            self._setup,
            selu_weights=self._before.selu_weights,
            selu_input=self._before.selu_input,
            saturating_stack=self._before.saturating_stack,
        )

    def restore(self, setup: Setup) -> None:
        """Go on from the `setup` of a fit that this one resumes."""
        self._before = setup

    def begin(self, optimizers: Sequence[Optimizer], from_scratch: bool) -> None:
        """Begin a step. Weights tell of their initialisation only where the fit begins `from_scratch`."""
        if self._open:
            self._optimizers, self._from_scratch = optimizers, from_scratch
            self._recorder.forward.entered = self._enter

    def before_backward(self, loss: Tensor) -> None:
        """Look at the graph of `loss`, whose forward the recorder has traced."""
        if self._open:
            with self._shielded():
                graph = Graph(loss, self._recorder.table, self._recorder.forward.trace)
                self._used.update(graph.leaves)
                self._facts.look_at(graph, self._from_scratch and not self._recorder.stepped)

    def end_batch(self) -> None:
        """Draw up the facts, if there was a loss."""
        self._recorder.forward.entered = None
        if self._open and self._used:
            with self._shielded():
                self._close()

    def _close(self) -> None:
        self._open = False
        facts = self._facts
        self._setup = Setup(
            plain_dropouts=facts.dropouts,
            normalized_selus=tuple(facts.normalized_selus),
            output_activation=facts.output,
            in_no_optimizer=self._in_no_optimizer(),
            never_called=self._never_called(),
        )
        self._pending = facts.send()
        self._used, self._optimizers = {}, ()

    def _enter(self, module: nn.Module, args: tuple[object, ...]) -> None:
        if is_weight_layer(module) and module in self._recorder.table.names:
            self._recorder.forward.entered = None
            with self._shielded():
                self._facts.given(self._recorder.table.names[module], args[0] if args else None)

    def _in_no_optimizer(self) -> tuple[str, ...]:
        """Layers that get a gradient which nobody uses. Where none is known to be used, optimizers hold copies."""
        owned = {id(p) for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]}
        if not owned & self._used.keys():
            return ()
        table = self._recorder.table
        rows = {table.row_of_parameter(p) for key, p in self._used.items() if key not in owned}
        return tuple(table.rows[row].name for row in sorted(rows) if row >= 0)

    def _never_called(self) -> tuple[str, ...]:
        """Trainable layers that no hook saw and no loss depends on.

        Where a hook failed that is not known, nor of sharded ones: a loss depends on what they were gathered into.
        """
        if any("hook" in slot for slot in self._recorder.failures):
            return ()
        table = self._recorder.table
        silent = [row for row in table.never_ran() if row < len(table.modules)]
        own = {row: [p for p in table.modules[row].parameters(recurse=False) if p.requires_grad] for row in silent}
        known = {row: [id(p) in self._used or is_sharded(p) for p in ps] for row, ps in own.items()}
        return tuple(table.rows[row].name for row, used in known.items() if used and not any(used))

    @contextlib.contextmanager
    def _shielded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._open, self._pending, self._used = False, None, {}
            self._recorder.forward.entered = None
            self._recorder.failures[SLOT] = f"switched off after {type(error).__name__}: {error}"


class _Sums(NamedTuple):
    """Sum, L2 norm and spectral excess of the weights of a layer: float32[3] on its device."""

    numbers: Tensor
    weights: int
    units: int


class _Facts:
    """What the graphs of the first losses told, and numbers that are still on the device."""

    def __init__(self) -> None:
        self.dropouts: dict[str, float] = {}
        self.normalized_selus: dict[str, None] = {}
        self.output: OutputActivation | None = None
        self._feeding_selu: dict[str, None] = {}
        self._sums: dict[str, _Sums] = {}
        self._stack_names: tuple[str, ...] = ()
        self._stack_slopes: tuple[float, ...] = ()
        self._stack_layers: list[str] = []
        self._first_layer = ""
        self._input: Tensor | None = None

    def given(self, layer: str, x: object) -> None:
        """Take note of what the first weight layer was given."""
        self._first_layer = layer
        if _is_plain(x) and x.numel():
            row = sample(x, INPUT_SAMPLE).reshape(1, -1)
            self._input = torch.cat(moments(row)).float() / row.shape[1]

    def look_at(self, graph: Graph, weights_are_initial: bool) -> None:
        """Take note of what `graph` tells."""
        present = set(graph.operations.values())
        self.output = self.output or _output_activation(graph)
        for node in graph.nodes if "elu" in present else ():
            if _is_selu(graph, node):
                self._look_at_selu(graph, node, weights_are_initial)
            elif _is_selu(graph, graph.source(node, _UNITS)) and (dropout := graph.dropout(node)):
                self.dropouts[dropout[0]] = dropout[1]
        if weights_are_initial and present & _SLOPES.keys():
            self._look_at_stack(graph)

    def _look_at_selu(self, graph: Graph, node: Any, weights_are_initial: bool) -> None:
        before = graph.source(node)
        if before is None:
            return
        layer = graph.weight_layer(before) if weights_are_initial else None
        if layer is not None:
            self._feeding_selu[layer[0]] = None
            self._read(*layer)
        elif graph.operations[before] in BATCH_NORMS and (selu := graph.activation(node, "selu")) is not None:
            self.normalized_selus[selu[0]] = None

    def _look_at_stack(self, graph: Graph) -> None:
        stack = _longest_stack(graph)
        names = [graph.activation(node, graph.operations[node]) for node in stack.activations]
        if len(names) > len(self._stack_names) and None not in names:
            self._stack_names, self._stack_slopes = tuple(name[0] for name in names if name), stack.slopes
            self._stack_layers = [layer for layer, _ in stack.layers]
            for layer in stack.layers:
                self._read(*layer)

    def _read(self, layer: str, weight: Tensor) -> None:
        if layer not in self._sums:
            total = weight.sum(dtype=torch.promote_types(weight.dtype, torch.float32)).float().reshape(1)
            numbers = torch.cat([total, l2_norms([weight]), spectral_excess(weight).reshape(1)])
            self._sums[layer] = _Sums(numbers, weight.numel(), len(weight))

    def send(self) -> Transfer:
        """Send the numbers to the host: three a layer, at the end the mean and variance of the input, if known."""
        first = [] if self._input is None else [self._input]
        return Transfer([*(sums.numbers for sums in self._sums.values()), *first])

    def setup(self, known: Setup, numbers: Sequence[float]) -> Setup:
        """Return `known` with the facts behind the numbers that `send` sent."""
        read, trained = {}, False
        for i, (layer, of) in enumerate(self._sums.items()):
            total, norm, excess = numbers[3 * i : 3 * i + 3]
            read[layer] = InitialWeights(layer, total / of.units, norm**2 / of.units, of.weights, of.units)
            trained |= layer in self._feeding_selu and excess > TRAINED
        selu_input = self._input is not None and self._first_layer in self._feeding_selu
        gain = math.prod(self._stack_slopes) * math.prod(math.sqrt(read[layer].tau) for layer in self._stack_layers)
        return replace(
            known,
            selu_weights=() if trained else tuple(read[layer] for layer in self._feeding_selu),
            selu_input=InputMoments(self._first_layer, *numbers[-2:]) if selu_input else None,
            saturating_stack=SaturatingStack(self._stack_names, gain) if self._stack_names else None,
        )


class _Chain(NamedTuple):
    """Bounded activations with weight layers between them, from the input on."""

    activations: tuple[Any, ...] = ()
    slopes: tuple[float, ...] = ()
    layers: tuple[tuple[str, Tensor], ...] = ()


def _longest_stack(graph: Graph) -> _Chain:
    """The longest chain of bounded activations that ends in a weight layer, and through which alone a gradient goes."""
    longest, chains = _Chain(), dict[Any, _Chain]()
    for node in graph.nodes:
        before = graph.only_input(node)
        chain = chains.get(before, _Chain()) if before is not None and graph.is_read_once(before) else _Chain()
        slope, layer = _SLOPES.get(graph.operations[node]), graph.weight_layer(node)
        if slope is not None:
            chains[node] = _Chain((*chain.activations, node), (*chain.slopes, slope), chain.layers)
        elif chain.activations and layer is not None:
            longest = max(longest, chain, key=lambda c: len(c.activations))
            chains[node] = chain._replace(layers=(*chain.layers, layer))
        elif chain.activations and (graph.passes_on(node, _UNITS) or graph.dropout(node)):
            chains[node] = chain
    return longest


def _output_activation(graph: Graph) -> OutputActivation | None:
    for node in _cross_entropies(graph):
        before = graph.source(node)
        function = graph.operations.get(before, "")
        if function in _LIMITED and (activation := graph.activation(before, function)) is not None:
            return OutputActivation(*activation, _classes(node))
    return None


def _cross_entropies(graph: Graph) -> Iterator[Any]:
    """The operations of a cross-entropy that are given logits."""
    waiting, seen = [(graph.nodes[-1], False)] if graph.nodes else [], set()
    while waiting:
        node, logged = waiting.pop()
        name = graph.operations.get(node, "")
        if (node, logged) in seen:
            continue
        seen.add((node, logged))
        if name in ("logsoftmax", "binarycrossentropywithlogits") or (name == "softmax" and logged):
            yield node
        elif name in _LOSS_ARITHMETIC:
            waiting += [(p, logged or name == "log") for p, _ in node.next_functions if p is not None]


def _classes(node: Any) -> int:
    """The number of classes of the softmax `node`; 0 for what is none."""
    dimension = getattr(node, "_saved_dim", None)
    if dimension is None:
        return 0
    shape = node._input_metadata[0].shape
    return int(shape[dimension - 2**64 if dimension >= 2**63 else dimension])


def _is_selu(graph: Graph, node: Any) -> bool:
    # ELU and CELU are the same operation with scale 1.
    return graph.operations.get(node) == "elu" and float(node._saved_scale) > 1.05


def _is_plain(x: object) -> TypeGuard[Tensor]:
    return (
        isinstance(x, Tensor)
        and x.is_floating_point()
        and x.layout is torch.strided
        and not x.is_meta
        and not is_distributed(x)
        and not is_mapped(x)
    )
