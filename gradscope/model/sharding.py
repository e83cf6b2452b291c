"""Which part of a tensor is on this rank, and what it counts for in a sum over all ranks. Nothing here communicates.

Three things shard parameters: FSDP2 and plans of tensor parallelism make DTensors of them; FSDP1 leaves plain tensors
that are views into a flat one; DeepSpeed keeps them to itself.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SUMMAND = "what each rank holds of it has yet to be summed up (a Partial of torch.distributed)"

PARTIAL = f"gradient not measured: {SUMMAND}, as SequenceParallel leaves it, and not in the total norm either"

FLAT = (
    "layers are not told apart, because FSDP with use_orig_params=False has joined their parameters: of gradients the "
    "total norm is measured; use_orig_params=True, as Lightning's FSDPStrategy has it, keeps them apart"
)

GRADIENTS = "gradients and weights"

ALONE = "not measured, because each rank holds a part of them, and the other ranks are not asked"

DEEPSPEED = (
    "not measured, because DeepSpeed keeps gradients and weights in partitions of its own (ZeRO); activations and the "
    "loss are measured"
)


class Shards(NamedTuple):
    """How a parameter is cut up: into how many distinct parts, and how many elements they have together."""

    number: int
    elements: int


class Parts(NamedTuple):
    """The parameters of an optimizer as far as they are cut up: float64[n] and int64[n].

    The squared norms of the parts here, summed over all ranks and multiplied by `shares`, are those of the whole:
    a part that several ranks hold counts once. `elements` are those of the whole, `ranks` how many ranks there are.
    """

    ranks: int
    shares: npt.NDArray[np.float64]
    elements: npt.NDArray[np.int64]


def local(tensor: Tensor) -> Tensor:
    """Return the part of `tensor` that this rank holds: that of a DTensor without autograd, any other itself."""
    part: Tensor = tensor._local_tensor if is_distributed(tensor) else tensor  # type: ignore[attr-defined]  # of a DTensor
    return part


def is_distributed(tensor: object) -> bool:
    """Say whether `tensor` is a DTensor."""
    if type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return False  # asked of each activation of each record, and nearly always so
    # Whoever made one has imported its module, which takes long, and which no other user shall wait for.
    return isinstance(tensor, getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ()))


def is_partial(tensor: Tensor) -> bool:
    """Say whether what this rank holds of `tensor` is not a part of it but a summand, of which no norm can be told."""
    return is_distributed(tensor) and any(placement.is_partial() for placement in _placements(tensor))


def lies_like(gradient: Tensor, parameter: Tensor) -> bool:
    """Say whether `gradient` is cut up as `parameter` is: their shares are the same then."""
    return _placements(gradient) == _placements(parameter)


def is_here(tensor: Tensor) -> bool:
    """Say whether the memory of `tensor` can be read: FSDP frees that of gathered weights, which autograd still has."""
    return tensor.layout is not torch.strided or not tensor.numel() or tensor.untyped_storage().nbytes() > 0


def is_sharded(parameter: Tensor) -> bool:
    """Say whether `parameter` is one that is sharded, also if it is in one piece or not here at the moment."""
    return is_distributed(parameter) or is_partitioned(parameter) or getattr(parameter, "_fsdp_flattened", False)


def is_flat(parameter: Tensor) -> bool:
    """Say whether `parameter` is what FSDP1 has made of those of several layers."""
    return bool(getattr(parameter, "_is_flat_param", False))


def is_partitioned(parameter: Tensor) -> bool:
    """Say whether DeepSpeed has partitioned `parameter`, as ZeRO stage 3 does."""
    return hasattr(parameter, "ds_id")


def is_hidden(optimizer: object) -> bool:
    """Say whether `optimizer` is what DeepSpeed puts in the place of one, with ZeRO and in half precision.

    It holds partitions of copies, and is none of torch's optimizers; one that DeepSpeed brings along for the user is.
    """
    deepspeeds = type(optimizer).__module__.partition(".")[0] == "deepspeed"
    return deepspeeds and not isinstance(optimizer, torch.optim.Optimizer)


def parts_of(parameters: Sequence[Tensor], root: nn.Module) -> Parts | None:
    """Return how `parameters` are cut up: None where none is. `root` is the model, with what a strategy wraps it in.

    All ranks hold all of a plain tensor, and the shards of any other lie on as many ranks each: what FSDP2,
    tensor parallelism and FSDP1 in all their combinations do.
    """
    flat = _flat_shards(root) if any(is_sharded(p) and not is_distributed(p) for p in parameters) else {}
    known = [_shards(p, flat) for p in parameters]
    if not any(known):
        return None
    shards = [s or Shards(1, p.numel()) for s, p in zip(known, parameters, strict=True)]
    numbers = np.array([s.number for s in shards], dtype=np.float64)
    return Parts(ranks := world_size(), numbers / ranks, np.array([s.elements for s in shards], dtype=np.int64))


def world_size() -> int:
    """Return the number of ranks."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def unit_slice(producer: nn.Module | None, units: int) -> tuple[int, int]:
    """Return where the units that this rank sees of `producer` begin, and how many all ranks see together.

    `units` are those of what it gave out here. They tell a layer that tensor parallelism has cut from one that FSDP
    has: the weight of either lies in shards along its first dimension, but FSDP gathers it for the forward. Where both
    are at work, the last dimension of the mesh is that of tensor parallelism.
    """
    weight: Any = weight_of(producer) if producer is not None else None
    if not is_distributed(weight) or not _is_cut_along_units(weight.placements[-1]):
        return 0, units
    mesh = weight.device_mesh
    longest = -(-weight.shape[0] // mesh.size(mesh.ndim - 1))
    first = min(mesh.get_local_rank(mesh.ndim - 1) * longest, weight.shape[0])
    cut = units == min(longest, weight.shape[0] - first)
    return (first, weight.shape[0]) if cut else (0, units)


def weight_of(module: nn.Module) -> Any:
    """Return the parameter ``weight`` that `module` owns: None where it has none.

    That of a parametrized layer is computed each time that the layer is asked for it, and with spectral norm each time
    is a step of the power iteration: the training would become another.
    """
    return dict(module.named_parameters(recurse=False)).get("weight")


def plain_class(module: nn.Module) -> type:
    """Return the class of `module` as the user wrote it: FSDP2 makes an `FSDPLinear` of a Linear."""
    kind = type(module)
    cut = any(base.__name__ in ("FSDPModule", "ReplicateModule") for base in kind.__bases__)
    return kind.__bases__[-1] if cut else kind


def _placements(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.placements) if is_distributed(tensor) else ()


def _is_cut_along_units(placement: Any) -> bool:
    return getattr(placement, "dim", None) == 0 and not placement.is_replicate() and not placement.is_partial()


def _shards(parameter: Any, flat: Mapping[int, Shards]) -> Shards | None:
    """How `parameter` is cut up: None if it is not."""
    if not is_distributed(parameter):
        return flat.get(id(parameter))
    cuts = [
        size
        for size, placement in zip(parameter.device_mesh.shape, parameter.placements, strict=True)
        if not placement.is_replicate() and not placement.is_partial()
    ]
    return Shards(int(np.prod(cuts, dtype=np.int64)), parameter.numel())


def _flat_shards(root: nn.Module) -> dict[int, Shards]:
    """How FSDP1 has cut up the parameters of `root`, and the flat ones that it has made of them, by identity."""
    shards: dict[int, Shards] = {}
    for handle in _handles(root):
        number = handle.world_size if handle.uses_sharded_strategy else 1
        flat = handle.flat_param
        shards[id(flat)] = Shards(number, sum(flat._numels))
        shards |= {id(p): Shards(number, n) for p, n in zip(flat._params or (), flat._numels, strict=False)}
    return shards


def _handles(root: nn.Module) -> Iterator[Any]:
    for module in root.modules():
        handle = vars(module).get("_handle")
        if getattr(getattr(handle, "flat_param", None), "_is_flat_param", False):
            yield handle
