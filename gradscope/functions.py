"""Activations called as functions: which functions they are, and how a call of one is noticed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, overrides
from torch.overrides import TorchFunctionMode

from gradscope.activations import ACTIVATIONS, Activation, clipped

_CLASSES = {
    "relu": "ReLU", "relu6": "ReLU6", "sigmoid": "Sigmoid", "hardsigmoid": "Hardsigmoid", "tanh": "Tanh",
    "hardtanh": "Hardtanh", "softsign": "Softsign", "selu": "SELU", "elu": "ELU", "celu": "CELU", "gelu": "GELU",
    "silu": "SiLU", "mish": "Mish", "hardswish": "Hardswish", "leaky_relu": "LeakyReLU", "prelu": "PReLU",
    "rrelu": "RReLU", "softplus": "Softplus", "logsigmoid": "LogSigmoid",
}  # fmt: skip
"""The modules that do the same."""


def _functions() -> dict[Callable[..., Any], str]:
    """Every callable that computes an activation, ``F.relu_`` and ``Tensor.relu`` too → its plain name."""
    spellings: dict[Callable[..., Any], str] = {}
    for name in _CLASSES:
        for home in (F, torch, Tensor):
            for spelling in (name, f"{name}_"):
                if (function := getattr(home, spelling, None)) is not None:
                    spellings[function] = name
    return spellings


# torch has no types for these.
_number_of_modes: Callable[[], int] = torch._C._len_torch_function_stack
_push_mode: Callable[[object], None] = overrides._push_mode
_pop_mode: Callable[[], object] = overrides._pop_mode

FUNCTIONS: Mapping[Callable[..., Any], str] = _functions()


class FunctionWatch(TorchFunctionMode):
    """Tells `called(name, activation, output)` of each activation that is called as a function while it is on.

    It changes nothing of what is computed; a function called inside another torch function is not seen.
    """

    def __init__(self, called: Callable[[str, Activation, object], None]) -> None:
        super().__init__()
        self.paused = False
        self._called = called
        self._on = False
        self._below: int | None = None

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, and tell of it."""
        output = func(*args, **(kwargs or {}))
        if not self.paused and (name := FUNCTIONS.get(func)) is not None and not torch.compiler.is_compiling():
            self._called(name, _activation(name, args[1:], kwargs or {}), output)
        return output

    def start(self) -> None:
        """Switch on until `stop`, at the place among the user's modes where it was before. Harmless where it is on."""
        if not self._on:
            if self._below is None:
                self._below = _number_of_modes()
            above = [_pop_mode() for _ in range(_number_of_modes() - self._below)]
            for mode in (self, *reversed(above)):
                _push_mode(mode)
            self._on = True

    def stop(self) -> None:
        """Switch off, also from under modes that the user has switched on since. Harmless where it is off."""
        if not self._on:
            return
        self._on = False
        above: list[object] = []
        for _ in range(_number_of_modes()):
            if (mode := _pop_mode()) is self:
                break
            above.append(mode)
        for mode in reversed(above):
            _push_mode(mode)

    def forget(self) -> None:
        """Switch off, and at the next `start` take a place above all modes that are on by then."""
        self.stop()
        self._below = None


def _activation(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Activation:
    if name != "hardtanh":
        return ACTIVATIONS[_CLASSES[name]]
    limits = {"min_val": -1.0, "max_val": 1.0} | dict(zip(("min_val", "max_val"), args, strict=False)) | dict(kwargs)
    return clipped(limits["min_val"], limits["max_val"])
