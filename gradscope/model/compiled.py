"""What torch.compile has compiled, or will, of a model; and how a hook is heard from inside of it."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule


def compiled_roots(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the names and modules whose whole inside runs as compiled code, the outermost first.

    By `torch.compile(net)`, `net.compile()`, `torch.compile(LightningModule)` and by a compiled `forward` or
    `training_step`. A function that is compiled elsewhere and calls a module cannot be found.
    """
    roots: list[tuple[str, nn.Module]] = []
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module not in inside and _is_compiled(module):
            roots.append((name, module))
            inside.update(module.modules())
    return roots


def has_compiled_functions(module: nn.Module) -> bool:
    """Say whether `module` holds a function that torch.compile made."""
    return any(hasattr(value, "_torchdynamo_orig_callable") for value in vars(module).values() if callable(value))


def _is_compiled(module: nn.Module) -> bool:
    methods = (getattr(module, name, None) for name in ("forward", "training_step"))
    return (
        isinstance(module, OptimizedModule)
        or module._compiled_call_impl is not None
        or getattr(module, "_compiler_ctx", None) is not None
        or any(hasattr(method, "_torchdynamo_orig_callable") for method in methods)
    )


def asks_for_cuda_graphs(root: nn.Module) -> bool:
    """Say whether `root` is compiled to run as CUDA graphs: by `mode="reduce-overhead"`, `"max-autotune"` or options.

    What is done in between, as in a hook, torch then takes for a leak of memory, and ends the training.
    """
    from torch._inductor import config  # which takes long to import, and only those need that compile

    by_default = bool(config.triton.cudagraphs)
    found = [_makes_cuda_graphs(backend, by_default) for backend in _backends(root)]
    return any(found) if found else by_default


def _backends(root: nn.Module) -> Iterator[Any]:
    """What compiles `root`, as far as it can be found: torch hides it in closures and under several wrappers."""
    contexts = [getattr(root, "dynamo_ctx", None), (getattr(root, "_compiler_ctx", None) or {}).get("dynamo_ctx")]
    functions = [root._compiled_call_impl, *(getattr(root, name, None) for name in ("forward", "training_step"))]
    for thing in (*contexts, *(content for f in functions for content in _closed_over(f))):
        if type(thing).__module__.startswith("torch."):  # the user's own may answer to any name
            backend = getattr(thing, "callback", thing)
            while (name := next((n for n in _WRAPPED if hasattr(backend, n)), None)) is not None:
                backend = getattr(backend, name)
            yield backend


def _makes_cuda_graphs(backend: Any, by_default: bool) -> bool:
    name = getattr(backend, "compiler_name", "")
    return bool(backend.config.get("triton.cudagraphs", by_default)) if name == "inductor" else name == "cudagraphs"


_WRAPPED = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")
"""What the wrapper of a backend calls it: the second in older versions of torch."""


def _closed_over(function: object) -> Iterator[object]:
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # of one that is still empty
            yield cell.cell_contents


class Tap:
    """A tap on compiled code: `send` in a traced hook becomes an operation that calls `heard` at each run.

    The number of the tap is a tensor and so an input of the compiled graph: a graph that several modules share is
    not compiled anew for each of them.
    """

    def __init__(self, heard: Callable[[Tensor], None]) -> None:
        self.heard = heard
        self.number = torch.tensor(next(_numbers), device="cpu")
        _taps[int(self.number)] = self

    def send(self, output: Tensor) -> None:
        """Tell of `output`; to be called while torch.compile traces."""
        torch.ops.gradscope.tap(output.detach(), self.number)


_numbers: Iterator[int] = itertools.count()
_taps: WeakValueDictionary[int, Tap] = WeakValueDictionary()
_library: Any = torch.library.Library("gradscope", "DEF")  # type: ignore[no-untyped-call]  # torch has no types for it
# That it writes to the number is not true: it keeps the compiler from throwing out what has no result.
_library.define("tap(Tensor output, Tensor(a!) number) -> ()")


def _tap(output: Tensor, number: Tensor) -> None:
    tap = _taps.get(int(number))
    if tap is not None:
        tap.heard(output)


def _without_effect(output: Tensor, number: Tensor) -> None:
    """What the compiler traces in place of `_tap`."""


_library.impl("tap", _tap, "CompositeExplicitAutograd")
torch.library.register_fake("gradscope::tap", _without_effect)


def reset() -> None:
    """Throw away what has been compiled: what was traced before a hook was attached would never run it."""
    torch.compiler.reset()
