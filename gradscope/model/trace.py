"""Which modules a forward runs, and which operations belong to each."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.model.autograd import nodes_of, number_of, running_number
from gradscope.model.sharding import plain_class


class Call(NamedTuple):
    """A module's part of a forward: autograd's running numbers when it began and ended, counted back from the loss.

    `output` and `made_by` are the number and the name of the operation that made its output, if autograd knows one.
    """

    module: nn.Module
    begin: int
    end: int
    output: int | None = None
    made_by: str = ""


class Trace:
    """The calls of all modules in one forward, in the order in which they ended.

    The next forward of the same code makes the same operations in the same order, so that the number of an operation
    tells the module it belongs to.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: list[tuple[nn.Module, int]] = []
        self._ended: list[Call] = []

    def enter(self, module: nn.Module) -> None:
        """Note that the forward of `module` begins."""
        self._open.append((module, running_number()))

    def leave(self, module: nn.Module, output: object) -> None:
        """Note that it ends."""
        while self._open:
            opened, begin = self._open.pop()
            if opened is module:
                node = next((t.grad_fn for t in tensors_in(output) if t.grad_fn is not None), None)
                made_by = (None, "") if node is None else (number_of(node), node.name())
                self._ended.append(Call(module, begin, running_number(), *made_by))
                return

    def end(self, loss: Tensor) -> None:
        """Take what was noted since the last `end` for the calls of a forward, unless it is nothing."""
        if self._ended and loss.grad_fn is not None:
            last = number_of(loss.grad_fn)
            self.calls = [
                Call(c.module, last - c.begin, last - c.end, None if c.output is None else last - c.output, c.made_by)
                for c in self._ended
            ]
        self._ended, self._open = [], []

    def fits(self, loss: Tensor) -> bool:
        """Say whether `loss` was made by the same operations as when the calls were noted."""
        last = number_of(loss.grad_fn)
        names = {last - number_of(node): node.name() for node in nodes_of(loss.grad_fn)}
        known = [c for c in self.calls if c.output is not None and c.output in names]
        return bool(known) and all(names[c.output] == c.made_by for c in known if c.output is not None)

    def innermost(self, back: int) -> nn.Module | None:
        """Return the innermost module whose forward made the operation `back` before that of the loss."""
        inside = [c for c in self.calls if c.begin >= back > c.end]
        return min(inside, key=lambda c: c.begin - c.end).module if inside else None

    def before(self, module: nn.Module) -> nn.Module | None:
        """Return the module whose forward ended last before that of `module` began."""
        begin = next((c.begin for c in self.calls if c.module is module), None)
        if begin is None:
            return None
        earlier = [c.module for c in self.calls if c.end >= begin and c.module is not module]
        return earlier[-1] if earlier else None

    def after(self, module: nn.Module) -> nn.Module | None:
        """Return the first module without parameters and of no class of torch's that ran between `module` and the next.

        The next is the one with parameters after it. A bad gradient that a layer of torch's own gets comes from what
        the user wrote behind it, where there is such a thing.
        """
        started = False
        for call in self.calls:
            if call.module is module:
                started = True
            elif started and next(call.module.parameters(), None) is not None:
                return None
            elif started and not plain_class(call.module).__module__.startswith("torch."):
                return call.module
        return None


def tensors_in(output: object) -> Iterator[Tensor]:
    """Yield the tensors in what a module gave out: tuples, dicts and packed sequences, however deep."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, PackedSequence):
        yield output.data
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors_in(value)
