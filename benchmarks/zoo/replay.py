"""Saved states of a run, replayed in float64 over the whole training set, for the oracle."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.activations import ActivationFacts, ActivationTap, UnitCounter
from zoo.case import Case
from zoo.data import Loader
from zoo.modules import ZooModule


def to_double(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    return type(batch)(to_double(b) for b in batch)


def all_finite(thing: Any) -> bool:
    if isinstance(thing, Tensor):
        return bool(torch.isfinite(thing).all()) if thing.is_floating_point() else True
    if isinstance(thing, list | tuple):
        return all(all_finite(t) for t in thing)
    return True


def whole_training_set(case: Case) -> Loader:
    """Return every training sample once, in order, in large batches."""
    loader = case.make_loader()
    return DataLoader(loader.dataset, batch_size=256, collate_fn=loader.collate_fn)


def rebuilt(case: Case, state: dict[str, Tensor]) -> ZooModule:
    pl.seed_everything(case.seed, verbose=False)
    module = case.make_module()
    module.load_state_dict(state)
    return module.to(torch.float64)


def activation_facts(case: Case, state: dict[str, Tensor]) -> dict[str, ActivationFacts]:
    module = rebuilt(case, state).train()
    counters: dict[str, UnitCounter] = {}

    def see(name: str, kind: str, out: Tensor) -> None:
        counters.setdefault(name, UnitCounter(kind)).add(out)

    batches = whole_training_set(case)
    tap = ActivationTap(module, see)
    with torch.no_grad(), tap:
        for batch in batches:
            tap.new_batch()
            module.compute_loss(to_double(batch))
    tap.close()
    return {name: c.facts() for name, c in counters.items()}


def back_signal(case: Case, state: dict[str, Tensor]) -> dict[str, float]:
    """Return the Frobenius norm of dLoss/dOutput of each call of a layer with weights, over that of the last one.

    A module called again and again (a cell in a loop over time) has an entry for each call: name@1, name@2, ...
    """
    module = rebuilt(case, state).train()
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(m: nn.Module, args: Any, out: Any) -> None:
            out = out[0] if isinstance(out, tuple) else out
            if isinstance(out, Tensor) and out.requires_grad and out.is_floating_point():
                out.retain_grad()
                outputs.append((name, out))

        return hook

    for name, m in module.named_modules():
        if any(p.requires_grad for p in m.parameters(recurse=False)):
            m.register_forward_hook(keep(name))
    batch = next(iter(whole_training_set(case)))
    torch.autograd.backward(module.compute_loss(to_double(batch)))
    return _relative_to_the_last(_by_call(outputs))


def _by_call(outputs: list[tuple[str, Tensor]]) -> dict[str, float]:
    names = [name for name, _ in outputs]
    calls: dict[str, int] = defaultdict(int)
    norms: dict[str, float] = {}
    for name, out in outputs:
        calls[name] += 1
        norm = 0.0 if out.grad is None else out.grad.norm().item()
        norms[f"{name}@{calls[name]}" if names.count(name) > 2 else name] = norm
    return norms


def _relative_to_the_last(norms: dict[str, float]) -> dict[str, float]:
    last = list(norms.values())[-1] if norms else 0.0
    if not last or not math.isfinite(last):
        return {}
    return {n: v / last for n, v in norms.items()}


def whole_set_score(case: Case, module: ZooModule) -> tuple[float, float | None]:
    """Return the mean loss over the whole training set in eval mode, and the accuracy where the module has one."""
    module = module.to(torch.float64).eval()
    losses: list[float] = []
    hits: list[float] = []
    pl.seed_everything(case.seed, verbose=False)
    for batch in whole_training_set(case):
        batch = to_double(batch)
        with torch.no_grad():
            losses.append(float(module.compute_loss(batch)))
            hit = module.accuracy(batch)
        hits += [] if hit is None else [hit]
    mean = sum(losses) / len(losses)
    return mean, sum(hits) / len(hits) if len(hits) == len(losses) else None
