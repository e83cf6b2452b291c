"""What torch's SGD writes into the gradients that it is given."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import SGD, Optimizer

from gradscope.model.sharding import local

Momenta = Mapping[Tensor, tuple[float, Tensor]]
"""By parameter, how many times which tensor was added to its gradient."""


def momenta_in_gradients(optimizer: Optimizer) -> Momenta:
    """Return what `optimizer` added to gradients in the step that it just made: nothing, but for one.

    SGD that steps all parameters at once, as on an accelerator unless told otherwise, looks ahead by Nesterov's
    momentum in the gradients themselves; with weight decay, or where it maximizes, in a copy of them. Of one that makes
    its step in a way of its own nothing is known.
    """
    # Torch wraps the step of each class.
    if not isinstance(optimizer, SGD) or inspect.unwrap(type(optimizer).step) is not inspect.unwrap(SGD.step):
        return {}
    return {
        p: (group["momentum"], local(momentum))
        for group in optimizer.param_groups
        if _looks_ahead_in_place(group)
        for p in group["params"]
        if p.grad is not None and (momentum := optimizer.state.get(p, {}).get("momentum_buffer")) is not None
    }


def _looks_ahead_in_place(group: Mapping[str, Any]) -> bool:
    if not (group["nesterov"] and group["momentum"]) or group["weight_decay"] != 0 or group["maximize"]:
        return False
    if group["foreach"] is not None or group["fused"] is not None:  # torch chooses only where neither is given
        return bool(group["foreach"])
    from torch.optim.optimizer import _default_to_fused_or_foreach  # torch's own, which it may give another name

    _, foreach = _default_to_fused_or_foreach([p for p in group["params"] if p.grad is not None], differentiable=False)
    return foreach
