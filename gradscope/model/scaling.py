"""What a GradScaler does to a step: by what it multiplies the loss, and which steps it skips."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LossScale:
    """The loss scale of mixed precision in fp16; without a scaler, or with one that is switched off, there is none.

    Everything stays on the device: `GradScaler.get_scale()` would wait for it.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self._scaler: Any = scaler if scaler is not None and scaler.is_enabled() else None

    def is_on(self) -> bool:
        """Say whether there is one."""
        return self._scaler is not None

    def tensor(self) -> Tensor | None:
        """Return the scale as it is now, a copy: float32[1], or None where there is none."""
        scale = getattr(self._scaler, "_scale", None)
        return scale.detach().clone().reshape(1) if isinstance(scale, Tensor) else None

    def left_to(self, optimizer: Optimizer) -> bool:
        """Say whether `optimizer` divides its gradients by the scale itself, within its step, as fused ones do."""
        return self._scaler is not None and bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def overflow(self, optimizer: Optimizer) -> Tensor | None:
        """Return whether such an optimizer found infinite gradients and let the step be: float32[1], above zero if so.

        To be asked right after its step; None for any other, which is not called at all then.
        """
        found = getattr(optimizer, "found_inf", None)
        return found.detach().clone().reshape(1) if self._scaler is not None and isinstance(found, Tensor) else None
