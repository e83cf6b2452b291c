"""Hears what a forward does while a step is recorded: which modules run, which activations are called as functions."""

import gc
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.activations import Activation
from gradscope.model.compiled import Tap, asks_for_cuda_graphs, compiled_roots, has_compiled_functions, reset
from gradscope.model.functions import FunctionWatch
from gradscope.model.layers import activation_of
from gradscope.model.outputs import is_mapped
from gradscope.model.trace import Trace

DISCOVERY = 10
"""Recorded steps in which the model is learned: which module runs after which, and which activations are called as
functions. What has not been seen by then does not slow down the later ones."""

FUNCTIONS = "activations called as functions"

UNTRACED = "compiled, and not seen to run: it was traced where no hook could be attached"

CUDA_GRAPHS = "runs as CUDA graphs, where no hook can be heard: compile it without them to have it measured"

MAPPED = "ran only inside of torch.func, where what it gives out is no batch"

FAST_PATH = "not looked for, because a transformer layer is in evaluation mode"

_FAST_PATH = (nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""In evaluation mode torch computes these in a way of its own when nobody looks on, and its results may differ in the
last bit."""

_graph_task: Callable[[], int] = torch._C._current_graph_task_id

_OUTSIDE = -1
"""The number of the backward under way where there is none; one runs forwards again that were seen, to checkpoint."""


class ForwardWatch:
    """Attaches to a model for the length of a step, and tells what its forward does while `listening`.

    ``ran(module, output)`` is told of each call of one of `modules`, or of any module in a step that is watched in
    full; after the first steps only of the `lasting` ones among them. ``called(module, name, activation, output)`` is
    told of an activation called as a function in the forward of `module`, unless that is one itself.

    What torch.compile compiles keeps its hooks until `release`, behind a flag, because compiled code never looks at
    hooks again. What fails is entered in `failures`.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Collection[nn.Module],
        lasting: Collection[nn.Module],
        ran: Callable[[nn.Module, object], None],
        called: Callable[[nn.Module, str, Activation, object], None],
        failures: dict[str, str],
    ) -> None:
        self.compiled = compiled_roots(model)
        self.seconds = 0.0
        """Host time spent in hooks."""
        self._failures = failures
        self._flag = _Flag()
        self._fast_paths = [m for m in model.modules() if isinstance(m, _FAST_PATH)]
        self._model, self._modules, self._lasting_modules = model, modules, lasting
        self._ran, self._called = ran, called
        self._functions = FunctionWatch(self._function, self._failed)
        self._looking = False
        self._learning = False
        self._steps = 0
        self.trace = Trace()
        """The modules of a forward, as the first steps showed it."""
        self.entered: Callable[[nn.Module, tuple[object, ...]], None] | None = None
        """Who is told of each module that begins, and of what it was given, in those first steps."""
        self.mapped: dict[int, nn.Module] = {}
        """Modules that ran inside of torch.func, by identity: what they give out there is no batch."""
        self._stack: list[nn.Module] = []
        self._callers: dict[int, nn.Module] = {}  # by identity: the hash of a metric of torchmetrics changes
        self._outside: dict[str, str] = {}
        self._why_not = _why_functions_are_not_seen(model, [name for name, _ in self.compiled])
        if not self._why_not and _any_fast_path_is_taken():
            self._why_not = FAST_PATH  # also one of another model, a teacher's say: a function mode is on for all
        self._handles: _Handles = []
        self._lasting: _Handles = []
        self._inside = {m for _, root in self.compiled for m in root.modules()}
        self.out_of_reach = {m for _, root in self.compiled if _runs_as_cuda_graphs(root) for m in root.modules()}
        """Modules that run as CUDA graphs, in which there is no place for a hook."""
        traced = [m for m in modules if m in self._inside and m not in self.out_of_reach]
        if traced:
            reset()
        for module in traced:
            self._register("register_forward_hook", _TracedHook(self, module), [module], self._lasting)

    @property
    def listening(self) -> bool:
        """Whether what runs now is told."""
        return self._flag.on

    @listening.setter
    def listening(self, on: bool) -> None:
        self._flag.on = on
        if on and self._looking:
            self._functions.start()
        else:
            self._functions.stop()

    def attach(self, everything: bool = False) -> None:
        """Attach for a forward: to `modules`, or to all of the model where `everything` is asked for."""
        self.detach()
        fast = {m for f in self._fast_paths if not f.training for m in f.modules()}
        self._why_not = self._why_not or (FAST_PATH if fast else "")
        self._looking = not self._why_not and (self._steps < DISCOVERY or bool(self._callers))
        self._steps += 1
        self._learning = self._looking and self._steps <= DISCOVERY
        modules = dict.fromkeys(self._wanted(everything))
        if self._looking:
            known = [*self._callers.values(), *modules] if self._steps > DISCOVERY else self._model.modules()
            callers = dict.fromkeys(known)
            self._register("register_forward_pre_hook", _EnterHook(self), callers)
            modules |= callers
        out_of_bounds = self._inside | fast
        after = _LeaveHook(self) if self._looking else _TellHook(self)
        self._register("register_forward_hook", after, [m for m in modules if m not in out_of_bounds])
        guarded = [m for m in self._fast_paths if m not in out_of_bounds]
        self._register("register_forward_pre_hook", _GuardHook(self), guarded)

    @property
    def learning(self) -> bool:
        """Whether all of `modules` are heard, not the lasting ones alone."""
        return self._steps <= DISCOVERY

    def learn_again(self) -> None:
        """Hear all of `modules` once more, and look for functions: the model does what it has not done before."""
        self._steps = 0

    def _wanted(self, everything: bool) -> Iterable[nn.Module]:
        if everything:
            return self._model.modules()
        return self._modules if self.learning else self._lasting_modules

    def detach(self) -> None:
        """Take off what was attached for the forward. Harmless where nothing was."""
        self._flag.on = False
        self._functions.forget()
        for _, handle in self._handles:
            handle.remove()
        self._handles = []
        self._stack = []

    def release(self) -> None:
        """Take everything off."""
        self.detach()
        for _, handle in self._lasting:
            handle.remove()
        self._lasting = []

    def unseen(self) -> Mapping[str, str]:
        """Return what cannot be seen, and why."""
        functions = {FUNCTIONS: self._why_not} if self._why_not else {}
        return functions | {f"{name}()": why for name, why in self._outside.items()}

    def _register(
        self, method: str, hook: "_Hook", modules: Iterable[nn.Module], handles: "_Handles | None" = None
    ) -> None:
        register = methodcaller(method, hook)
        handles = self._handles if handles is None else handles
        for module in modules:
            try:
                handles.append((module, register(module)))
            except Exception as error:
                where = next((name for name, m in self._model.named_modules() if m is module), type(module).__name__)
                self._failures[f"hook at {where}"] = f"failed with {type(error).__name__}: {error}"

    # What follows is called by hooks: nothing of it may reach the user's forward.

    def guard(self, module: nn.Module) -> None:
        """Leave a transformer layer that was put into evaluation mode since the step began to its fast path."""
        if module.training:
            return
        try:
            self._why_not, self._looking = FAST_PATH, False
            self._functions.stop()
            inner = set(module.modules())
            for owner, handle in self._handles:
                if owner in inner:
                    handle.remove()
        except Exception as error:
            self._failed(error)

    def enter(self, module: nn.Module, args: tuple[object, ...]) -> None:
        """See the forward of `module` begin, with `args`."""
        try:
            self._stack.append(module)
            if self._learning:
                self.trace.enter(module)
                if self.entered is not None:
                    self._functions.paused = True  # what is computed there is not the user's
                    self.entered(module, args)
        except Exception as error:
            self._failed(error)
        self._functions.paused = False

    def leave(self, module: nn.Module, output: object) -> None:
        """See the forward of `module` end."""
        try:
            while self._stack and self._stack.pop() is not module:
                pass  # the forward of what stood above it was given up by an exception
            if self._learning:
                self.trace.leave(module, output)
        except Exception as error:
            self._failed(error)
        self.tell(module, output)

    def tell(self, module: nn.Module, output: object) -> None:
        """Tell of what `module` gave out."""
        start = time.perf_counter()
        self._functions.paused = True  # what is computed here is not the user's
        try:
            if self._flag.on and is_mapped(output):
                self.mapped[id(module)] = module
            elif self._flag.on and _graph_task() == _OUTSIDE:
                self._ran(module, output)
        except Exception as error:
            self._failed(error)
        self._functions.paused = False
        self.seconds += time.perf_counter() - start

    def _function(self, name: str, activation: Activation, output: object) -> None:
        start = time.perf_counter()
        self._functions.paused = True
        try:
            if self._flag.on and not is_mapped(output) and _graph_task() == _OUTSIDE:
                caller = self._stack[-1] if self._stack else None
                if caller is None:
                    self._outside[name] = "called outside of the forward of any module of the model"
                elif activation_of(caller) is not None:
                    pass  # it is told of as a module
                elif isinstance(output, Tensor) and not output.requires_grad:
                    self._outside.setdefault(name, "called where no gradient passes")
                else:
                    self._callers[id(caller)] = caller
                    self._called(caller, name, activation, output)
        except Exception as error:
            self._failed(error)
        self._functions.paused = False
        self.seconds += time.perf_counter() - start

    def _failed(self, error: Exception) -> None:
        self._failures["forward hooks"] = f"failed with {type(error).__name__}: {error}"


class _Flag:
    """The one thing that compiled code asks: whether its run is told."""

    def __init__(self) -> None:
        self.on = False


class _Hook:
    """A hook. A copy made of it along with its module, or a pickle, does nothing."""

    def __init__(self, watch: ForwardWatch) -> None:
        self._watch = watch
        self._flag = watch._flag

    def __reduce__(self) -> tuple[object, ...]:
        # A function of the standard library that takes any arguments and returns None, so that the copy of a
        # model neither reports here nor needs this package to be read.
        return getattr, (nullcontext(), "__exit__")


class _EnterHook(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling() and self._flag.on:
            self._watch.enter(module, args)


class _GuardHook(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self._watch.guard(module)


class _LeaveHook(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: object) -> None:
        # The first is a constant while torch.compile traces: the compiled graph then holds nothing of this.
        if not torch.compiler.is_compiling() and self._flag.on:
            self._watch.leave(module, output)


class _TellHook(_Hook):
    """The same where nobody asks which module calls which."""

    def __call__(self, module: nn.Module, args: Any, output: object) -> None:
        if not torch.compiler.is_compiling() and self._flag.on:
            self._watch.tell(module, output)


class _TracedHook(_Hook):
    """For a module that torch.compile compiles: the flag gives two graphs, one for steps that are recorded."""

    def __init__(self, watch: ForwardWatch, module: nn.Module) -> None:
        super().__init__(watch)
        self._tap = Tap(lambda output: watch.tell(module, output))

    def __call__(self, module: nn.Module, args: Any, output: object) -> None:
        if not self._flag.on:
            return
        if not torch.compiler.is_compiling():
            self._watch.leave(module, output)
        elif isinstance(output, Tensor):
            self._tap.send(output)


_Handles = list[tuple[nn.Module, RemovableHandle]]


def _runs_as_cuda_graphs(root: nn.Module) -> bool:
    # By the process, for `root` may have no parameters, or have them elsewhere for now.
    return torch.cuda.is_initialized() and asks_for_cuda_graphs(root)  # type: ignore[no-untyped-call]  # torch's own


def _any_fast_path_is_taken() -> bool:
    if all(layer.training for layer in _all_fast_paths()):
        return False
    gc.collect()  # one that nobody can call any more may still lie about
    return any(not layer.training for layer in _all_fast_paths())


def _all_fast_paths() -> list[nn.Module]:
    """All transformer layers there are in the process."""
    # An object refers to its class, and the collector finds who does in half the time that a look at each object takes.
    # By `type`, because some objects run code of their own when asked for their `__class__`.
    return [thing for thing in gc.get_referrers(*_with_subclasses(_FAST_PATH)) if issubclass(type(thing), _FAST_PATH)]


def _with_subclasses(classes: Iterable[type]) -> set[type]:
    """All of `classes`, and what is derived from any of them."""
    found = set(classes)
    return found.union(*(_with_subclasses(type.__subclasses__(c)) for c in found))


def _why_functions_are_not_seen(model: nn.Module, compiled: list[str]) -> str:
    if compiled:
        names = ", ".join(name or "the model itself" for name in compiled[:3])
        more = f" and {len(compiled) - 3} more" if len(compiled) > 3 else ""
        return f"not looked for, because torch.compile compiles {names}{more}"
    if any(has_compiled_functions(module) for module in model.modules()):
        return "not looked for, because the model calls a function that torch.compile compiles"
    return ""
