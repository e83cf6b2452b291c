"""Where a NaN or an infinity came from: the fatal batch replayed, in the precision of the run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.case import Case
from zoo.replay import all_finite
from zoo.witness import Accident


class _Call(NamedTuple):
    name: str
    module: nn.Module
    output: Tensor
    inputs: list[Tensor]

    def breaks_the_gradient(self) -> bool:
        """Say whether what came back to the output was finite, and what went on from here is not."""
        if self.output.grad is None or not all_finite(self.output.grad):
            return False
        grads = [a.grad for a in self.inputs] + [p.grad for p in self.module.parameters(recurse=False)]
        return any(g is not None and not all_finite(g) for g in grads)


def blame_non_finite(case: Case, accident: Accident) -> str:
    """Return the innermost module where it began; "<batch>", "<loss>" or "<optimizer>" where it was none."""
    if not all_finite(accident.batch):
        return "<batch>"
    module = case.make_module()
    dtype = next(t.dtype for t in accident.state.values() if t.is_floating_point())
    module.load_state_dict(accident.state)
    module = module.to(dtype).train()
    broken_outputs: list[str] = []
    calls: list[_Call] = []
    for name, m in module.named_modules():
        if name:
            m.register_forward_hook(_look(name, broken_outputs, calls))
    torch.set_rng_state(accident.rng)
    batch = accident.batch
    if dtype != torch.float32:
        batch = [b.to(dtype) if isinstance(b, Tensor) and b.is_floating_point() else b for b in batch]
    loss = module.compute_loss(batch)
    if broken_outputs:
        return broken_outputs[0]
    if not all_finite(loss):
        return "<loss>"
    torch.autograd.backward(loss)
    guilty = [call.name for call in calls if call.breaks_the_gradient()]
    return guilty[-1] if guilty else "<optimizer>"  # the last in forward order is the first in backward order


def _look(name: str, broken_outputs: list[str], calls: list[_Call]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(m: nn.Module, args: Any, out: Any) -> None:
        first = out[0] if isinstance(out, tuple) else out
        if all_finite(args) and not all_finite(out):
            broken_outputs.append(name)
        if isinstance(first, Tensor) and first.requires_grad:
            first.retain_grad()
            inputs = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
            for a in inputs:
                a.retain_grad()
            calls.append(_Call(name, m, first, inputs))

    return hook
