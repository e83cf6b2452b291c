"""Which rows a model has: modules that own parameters, and activations, in order of first execution."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from gradscope.activations import Activation, classify, clipped
from gradscope.model.sharding import is_flat, plain_class
from gradscope.patterns import NamePatterns
from gradscope.records import Layer

CALL_LIMIT = 8
"""Rows that one activation module gets at most, by its calls within a forward; later calls share the last. A module
shared by several places is so told apart, and one that runs in a loop over time does not fill the table."""

ROOT = "(root)"
"""The name of the row of the model itself, where it owns parameters."""

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""What torch.compile and the wrappers of torch.distributed put into names."""

_KINDS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str], ...] = (
    (nn.modules.conv._ConvNd, "convolution"),
    ((nn.Linear, nn.Bilinear), "linear"),
    ((nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm), "normalization"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent"),
    (nn.MultiheadAttention, "attention"),
)


class LayerTable:
    """The rows of a model; `watch` says by a layer's name whether it is one. A row keeps its number for good.

    An activation that is called several times in one forward has a row for each call. One that is called as a function
    has its first row once it was.
    """

    def __init__(self, model: nn.Module, watch: Callable[[str], bool]) -> None:
        self.rows: list[Layer] = []
        self.candidates: dict[str, bool] = {}
        """The names of all layers of the model, watched or not, and whether each is an activation."""
        self.modules: list[nn.Module] = []
        """The modules that stand behind the rows."""
        self.activations: dict[int, Activation] = {}
        """What the activation in a row is."""
        self._row_of_parameter: dict[int, int] = {}
        self._owners: list[tuple[nn.Module, int]] = []
        """All layers of the model, and their rows: -1 for one that is not watched."""
        self._containers: dict[int, str] = {}
        """Rows of modules with modules inside, and what the names of those begin with."""
        self.names = {module: _plain(path) for path, module in model.named_modules()}
        """The name of each module, the first of several."""
        self._watch = watch
        self._rows_of_module: dict[nn.Module, list[int]] = {}
        self._rows_of_function: dict[tuple[nn.Module, str], list[int]] = {}
        self._calls: dict[object, int] = {}
        self._executed: dict[int, int] = {}
        self._order = np.empty(0, dtype=np.int64)
        self._ordered: tuple[Layer, ...] = ()
        self._settled = (0, 0)
        self.ran_elsewhere: set[int] = set()
        """Rows that ran on another rank, if not on this one."""
        self._named: dict[str, int] = {}
        self._of_other_ranks: dict[str, int] = {}
        for name, module, activation in _candidates(model):
            self.candidates[name] = activation is not None
            row = self._add(name, module, activation) if watch(name) else -1
            self._owners.append((module, row))
        self.find_parameters()

    def find_parameters(self) -> None:
        """Look up anew which layer owns which parameter; to be called when there are others than before."""
        self._row_of_parameter = {}
        for module, row in self._owners:
            for parameter in module.parameters(recurse=False):
                self._row_of_parameter.setdefault(id(parameter), row)

    def _add(self, name: str, module: nn.Module, activation: Activation | None) -> int:
        kind = activation.kind if activation else _kind(module)
        row = self._new_row(Layer(name, plain_class(module).__name__, kind), activation)
        self.modules.append(module)
        self._rows_of_module[module] = [row]
        if next(module.children(), None) is not None:
            self._containers[row] = "" if name == ROOT else f"{name}."
        return row

    def _new_row(self, layer: Layer, activation: Activation | None) -> int:
        if layer.name in self._of_other_ranks:
            return self._of_other_ranks.pop(layer.name)
        self._named[layer.name] = len(self.rows)
        self.rows.append(layer)
        if activation is not None:
            self.activations[len(self.rows) - 1] = activation
        return len(self.rows) - 1

    def row_of_parameter(self, parameter: Tensor) -> int:
        """Return the row of the layer that owns `parameter`, the first of several: -1 if that is not watched."""
        return self._row_of_parameter.get(id(parameter), -1)

    def row_named(self, layer: Layer, activation: Activation) -> int:
        """Return the row of an activation by its name: a new one where so far only another rank has seen it run."""
        if layer.name not in self._named:
            self.candidates[layer.name] = True
            self._of_other_ranks[layer.name] = self._new_row(layer, activation)
        return self._named[layer.name]

    @property
    def progress(self) -> tuple[int, int]:
        """How many rows there are, and how many of them ran: where neither changed, nothing did."""
        return len(self.rows), len(self._executed)

    def restart_calls(self) -> None:
        """Make each module's next call its first: a forward begins."""
        self._calls = {}

    def row_of_call(self, module: nn.Module) -> int | None:
        """Note that `module` ran, and return the row of this call: None for a copy of one of `modules`."""
        rows = self._rows_of_module.get(module)
        if rows is None:
            return None
        row = self._row_of_next_call(module, rows) if rows[0] in self.activations else rows[0]
        if row not in self._executed:
            self._executed[row] = len(self._executed)
        return row

    def row_of_function(self, caller: nn.Module, function: str, activation: Activation) -> int | None:
        """Note that `caller` called `function`, and return the row of this call, named after both: ``block1.relu``.

        None where that is not watched, and for a copy of a module.
        """
        if caller not in self.names:
            return None
        key = caller, function
        if key not in self._rows_of_function:
            name = ".".join(part for part in (self.names[caller], function) if part)
            taken = name in self.candidates and name not in self._of_other_ranks
            name = f"{name}()" if taken else name
            self.candidates[name] = True
            row = self._new_row(Layer(name, function, activation.kind), activation) if self._watch(name) else None
            self._rows_of_function[key] = [] if row is None else [row]
        rows = self._rows_of_function[key]
        if not rows:
            return None
        row = self._row_of_next_call(key, rows)
        self._executed.setdefault(row, len(self._executed))
        return row

    def _row_of_next_call(self, key: object, rows: list[int]) -> int:
        call = self._calls[key] = min(self._calls.get(key, -1) + 1, CALL_LIMIT - 1)
        if call == len(rows):
            first = self.rows[rows[0]]
            layer = Layer(f"{first.name}#{call + 1}", first.type, first.kind)
            rows.append(self._new_row(layer, self.activations[rows[0]]))
        return rows[call]

    def names_of_calls(self, module: nn.Module, function: str = "") -> list[str]:
        """Return the names of the rows of `module`, or of `function` as called by it, one a call in a forward."""
        rows = self._rows_of_function.get((module, function)) if function else self._rows_of_module.get(module)
        return [self.rows[row].name for row in rows or []]

    @property
    def functions(self) -> set[int]:
        """The rows of activations called as functions."""
        return {row for rows in self._rows_of_function.values() for row in rows}

    def rows_of(self, module: nn.Module) -> list[int]:
        """Return the rows of `module`, one a call in a forward."""
        return self._rows_of_module.get(module, [])

    def rows_within(self, root: nn.Module) -> set[int]:
        """Return the rows of `root` and of the modules inside it."""
        return {row for module in root.modules() for row in self.rows_of(module)}

    def gaps(self, patterns: NamePatterns, why_no_functions: str) -> Iterator[str]:
        """Yield what the model or `patterns` leave nothing to see of, a sentence each."""
        if not self.candidates:
            yield "found nothing to watch: the model has no parameters and no activation modules."
            return
        for pattern in patterns.without_match(self.candidates):
            yield (
                f"`layers` pattern {pattern!r} matches none of {len(self.candidates)} layers, such as "
                f"{next(iter(self.candidates))!r}; use names as in model.named_modules()."
            )
        if not self.rows:
            yield f"watches no layer: `layers` excludes all {len(self.candidates)}."
        if not any(self.candidates.values()):
            yield (
                "found no activation modules, so only gradients and weights are measured; activations called as "
                f"functions: {why_no_functions}."
            )

    def may_have(self, layer: Layer) -> bool:
        """Say whether `layer` is a row, or may become one: of an activation that is called as a function, or again."""
        name = layer.name.partition("#")[0]
        caller, _, function = name.rpartition(".")
        is_call = function.removesuffix("()") == layer.type and caller in self.names.values()
        return self._watch(name) and (name in self.candidates or is_call)

    def newcomers(self, model: nn.Module) -> list[str]:
        """Return the names of layers that `model` has and had not when the table was made."""
        return [name for name, module, _ in _candidates(model) if module not in self.names]

    def never_ran(self) -> list[int]:
        """Return the rows whose module was never called, on no rank as far as is known."""
        return [row for row in range(len(self.rows)) if row not in self._executed and row not in self.ran_elsewhere]

    def order(self) -> tuple[npt.NDArray[np.int64], tuple[Layer, ...]]:
        """Return the rows in order of first execution, int64[rows], and their layers.

        A row that never ran follows the one before it in the model, as a layer whose weights another module uses.
        The same objects again as long as nothing new ran: readers of records know layers by identity.
        """
        if self._settled != self.progress:
            executed = self._began()
            keys, anchor = [], -1.0
            for row in range(len(self.rows)):
                anchor = executed.get(row, anchor)
                keys.append((anchor, row not in executed, row))
            self._order = np.array([row for *_, row in sorted(keys)], dtype=np.int64)
            self._ordered = tuple(self.rows[row] for row in self._order)
            self._settled = self.progress
        return self._order, self._ordered

    def _began(self) -> dict[int, float]:
        """When each row that ran began: hooks tell when it ended, which for a container is after all inside it."""
        began = {row: float(ended) for row, ended in self._executed.items()}
        for row, prefix in self._containers.items():
            inside = [end for r, end in self._executed.items() if r != row and self.rows[r].name.startswith(prefix)]
            if row in began and inside:
                began[row] = min(inside) - 0.5
        return began


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, Activation | None]]:
    for path, module in model.named_modules():
        activation = activation_of(module)
        if activation is not None or not all(map(is_flat, module.parameters(recurse=False))):
            yield _plain(path) or ROOT, module, activation


def _plain(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def activation_of(module: nn.Module) -> Activation | None:
    """Return what activation `module` is: None where it is none."""
    activation = classify(c.__name__ for c in type(module).__mro__)
    if not isinstance(module, nn.Hardtanh) or isinstance(module, nn.ReLU6):
        return activation
    return clipped(module.min_val, module.max_val)  # its limits are the user's


def _kind(module: nn.Module) -> str:
    return next((kind for types, kind in _KINDS if isinstance(module, types)), "parameters")
