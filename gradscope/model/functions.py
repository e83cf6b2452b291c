"""Activations called as functions: which functions they are, and how a call of one is noticed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, overrides
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

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

    def __init__(self, called: Callable[[str, Activation, object], None], failed: Callable[[Exception], None]) -> None:
        super().__init__()
        self.paused = False
        self._called, self._failed = called, failed
        self._on = False
        self._below: list[object] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, and tell of it."""
        output = func(*args, **(kwargs or {}))
        if not self.paused and not torch.compiler.is_compiling():
            try:
                if (name := FUNCTIONS.get(func)) is not None:
                    self._called(name, _activation(name, args[1:], kwargs or {}), output)
            except Exception as error:  # must not reach the user
                self._failed(error)
        return output

    def start(self) -> None:
        """Switch on until `stop`, above the modes that were on at the first start. Harmless where it is on."""
        if self._on:
            return
        modes = _pop_all()
        below = self._below or modes
        self._below = below = [m for m in modes if m in below or isinstance(m, DeviceContext)]
        _push_all([*below, self, *(m for m in modes if m not in below)])
        self._on = True

    def stop(self) -> None:
        """Switch off, also from under modes that the user has switched on since. Harmless where it is off."""
        if not self._on:
            return
        self._on = False
        modes = _pop_all()
        if self not in modes and self._below:
            # One of the user's modes below was switched off meanwhile, and took what lay on top for itself.
            modes = [m for m in modes if m is not self._below[-1]]
        _push_all([m for m in modes if m is not self])

    def forget(self) -> None:
        """Switch off, and at the next `start` take a place above all modes that are on by then."""
        self.stop()
        self._below = []


def _pop_all() -> list[object]:
    """Switch off all modes; returns them, the lowest first."""
    return [_pop_mode() for _ in range(_number_of_modes())][::-1]


def _push_all(modes: Iterable[object]) -> None:
    for mode in modes:
        _push_mode(mode)


def _activation(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Activation:
    if name != "hardtanh":
        return ACTIVATIONS[_CLASSES[name]]
    limits = {"min_val": -1.0, "max_val": 1.0} | dict(zip(("min_val", "max_val"), args, strict=False)) | dict(kwargs)
    return clipped(limits["min_val"], limits["max_val"])
