"""What the graph of a loss tells of a model: which operation works on the result of which, and whose they are."""

from collections import Counter
from collections.abc import Set
from typing import Any

from torch import Tensor, nn

from gradscope.model.autograd import SHAPES, back_from, nodes_of, number_of, operation
from gradscope.model.layers import LayerTable, activation_of
from gradscope.model.sharding import is_sharded, plain_class, weight_of
from gradscope.model.trace import Trace

LARGEST = 50_000
"""Operations up to which a graph is looked at: that takes a tenth of a second. Of a larger one nothing is told."""

POOLS = frozenset({
    "adaptiveavgpool2d", "adaptiveavgpool3d", "adaptivemaxpool2d", "avgpool2d", "avgpool3d", "maxpool2dwithindices",
    "maxpool3dwithindices", "mean", "mkldnnadaptiveavgpool2d",
})  # fmt: skip

BATCH_NORMS = frozenset({"nativebatchnorm", "cudnnbatchnorm", "miopenbatchnorm"})

_PRODUCTS = {"addmm", "convolution", "linear", "mkldnnlinear", "mm"}
_DROPOUTS = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d


class Graph:
    """The operations behind `loss` that autograd knows, in the order in which they ran.

    `trace` holds the calls of modules in the forward that made `loss`; where it turns out to be that of another loss,
    no operation is known to belong to a module. `nodes` is empty for a loss without a graph, and for one whose graph is
    larger than `LARGEST`.
    """

    def __init__(self, loss: Tensor, table: LayerTable, trace: Trace) -> None:
        found = nodes_of(loss.grad_fn, LARGEST) if loss.grad_fn is not None else []
        self.nodes: list[Any] = sorted(found, key=number_of)
        self.operations = {node: operation(node) for node in self.nodes}
        """The name of what each of them did."""
        self._loss, self._table = loss, table
        self._trace = trace if found and trace.fits(loss) else Trace()
        self._handed_on: dict[Any, Tensor] = {}
        """Operations that only hand on a parameter: a linear layer transposes its weight, autocast casts it."""
        self.leaves: dict[int, Tensor] = {}
        """The parameters and inputs that require a gradient, by identity."""
        self._inputs: dict[Any, tuple[Any, ...]] = {}
        """What each works on, parameters aside: None for what has no gradient."""
        self._readers: Counter[Any] = Counter()
        self._modules: dict[Any, nn.Module | None] = {}
        self._alike: dict[str, dict[nn.Module | None, list[Any]]] = {}
        for node in self.nodes:
            self._enter(node)

    def _enter(self, node: Any) -> None:
        parents = [parent for parent, _ in node.next_functions]
        leaves = [self._parameter(parent) for parent in parents]
        self._inputs[node] = tuple(p for p, leaf in zip(parents, leaves, strict=True) if leaf is None)
        self._readers.update(p for p in parents if p is not None)
        if len(leaves) == 1 and leaves[0] is not None and self.operations[node] in SHAPES:
            self._handed_on[node] = leaves[0]

    def _parameter(self, node: Any) -> Tensor | None:
        if node in self.operations:
            return self._handed_on.get(node)
        leaf: Tensor | None = getattr(node, "variable", None)
        if leaf is not None:
            self.leaves[id(leaf)] = leaf
        return leaf

    def only_input(self, node: Any) -> Any | None:
        """Return the one operation on whose result `node` works, parameters aside: None where it is none or several."""
        inputs = [i for i in self._inputs[node] if i is not None]
        return inputs[0] if len(inputs) == 1 else None

    def is_read_once(self, node: Any) -> bool:
        """Say whether what `node` made goes into one operation alone: no shortcut begins there."""
        return self._readers[node] <= 1

    def passes_on(self, node: Any, through: Set[str] = SHAPES) -> bool:
        """Say whether `node` is among the operations `through`, or adds a bias."""
        name = self.operations[node]
        return name in through or (name == "add" and len(self._inputs[node]) == 1)

    def source(self, node: Any, through: Set[str] = SHAPES) -> Any | None:
        """Return what `node` works on, past the operations `through`: None where it is none or several."""
        before = self.only_input(node)
        while before is not None and self.passes_on(before, through):
            before = self.only_input(before)
        return before

    def weight_layer(self, node: Any) -> tuple[str, Tensor] | None:
        """Return the name and the weight of the Linear or convolution that `node` is: None where it is neither.

        A transposed convolution is none, because how many inputs a unit of it has depends on where it lies, and of a
        layer without a single weight there is nothing to say.
        """
        if self.operations[node] not in _PRODUCTS:
            return None
        for parent, _ in node.next_functions:
            weight = self._parameter(parent) if parent is not None else None
            row = self._table.row_of_parameter(weight) if weight is not None else -1
            if weight is None or row < 0 or is_sharded(weight) or type(weight.detach()) is not Tensor:
                continue  # it is not all here
            module = self._table.modules[row]
            if is_weight_layer(module) and weight_of(module) is weight and weight.numel():
                return self._table.rows[row].name, weight.detach()
        return None

    def dropout(self, node: Any) -> tuple[str, float] | None:
        """Return the name and the probability of the plain Dropout module that `node` is: None where it is none."""
        if self.operations[node] not in ("mul", "nativedropout"):
            return None
        module = self.module(node)
        return (self._table.names[module], float(module.p)) if isinstance(module, _DROPOUTS) else None

    def module(self, node: Any) -> nn.Module | None:
        """Return the innermost module in whose forward `node` ran: None where it is none, or not known."""
        if node not in self._modules:
            module = self._trace.innermost(back_from(self._loss, node))
            self._modules[node] = module if module in self._table.names else None
        return self._modules[node]

    def activation(self, node: Any, function: str) -> tuple[str, str] | None:
        """Return the name and the type of the activation that `node` is, as the layers of a run have them.

        A module, or a `function` that a module or nobody called: None where it is not known which.
        """
        if not self._trace.calls:
            return None
        caller = self.module(node)
        alike = self._calls(self.operations[node])[caller]
        if caller is None:
            return function, function
        is_module = activation_of(caller) is not None or isinstance(caller, nn.Softmax)
        rows = self._table.names_of_calls(caller, "" if is_module else function)
        plain = [".".join(part for part in (self._table.names[caller], "" if is_module else function) if part)]
        name = (rows or plain)[min(alike.index(node), len(rows or plain) - 1)]
        return name, plain_class(caller).__name__ if is_module else function

    def _calls(self, name: str) -> dict[nn.Module | None, list[Any]]:
        """All operations of that name, by the module they ran in."""
        if name not in self._alike:
            calls: dict[nn.Module | None, list[Any]] = {}
            for node in self.nodes:
                if self.operations[node] == name:
                    calls.setdefault(self.module(node), []).append(node)
            self._alike[name] = calls
        return self._alike[name]


def is_weight_layer(module: nn.Module) -> bool:
    """Say whether `module` is a Linear or a convolution that is not transposed."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return not module.transposed
    return isinstance(module, nn.Linear)
