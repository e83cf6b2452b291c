"""Parts of tensors, on one process that takes itself for a rank of several: whatever communicates there is refused."""

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradscope.model import sharding
from gradscope.model.layers import LayerTable
from gradscope.model.sharding import Parts

RANKS = 4


@pytest.fixture
def ranks() -> Iterator[None]:
    """A process group of four ranks, of which only this one exists."""
    dist.init_process_group("fake", rank=1, world_size=RANKS, store=FakeStore())
    yield
    dist.destroy_process_group()


def mesh(*shape: int) -> DeviceMesh:
    names = ("replicate", "data_parallel", "tensor_parallel")[-len(shape) :]
    return DeviceMesh("cpu", torch.arange(RANKS).reshape(shape), mesh_dim_names=names)


def cut(part: Tensor, on: DeviceMesh, *placements: Any, shape: tuple[int, ...] | None = None) -> DTensor:
    """A DTensor of which `part` is here; of `shape`, where the parts are not alike."""
    size = torch.Size(shape) if shape else None
    stride = torch.empty(shape).stride() if shape else None
    return DTensor.from_local(part, on, placements, run_check=False, shape=size, stride=stride)


def parts(*parameters: Tensor) -> Parts:
    found = sharding.parts_of(parameters, nn.Module())
    assert found is not None
    return found


def test_a_plain_tensor_is_all_here() -> None:
    tensor = nn.Parameter(torch.ones(3))
    assert sharding.local(tensor) is tensor
    assert not sharding.is_distributed(tensor)
    assert not sharding.is_partial(tensor)
    assert not sharding.is_sharded(tensor)
    assert sharding.parts_of([tensor], nn.Module()) is None
    assert sharding.world_size() == 1


@pytest.mark.usefixtures("ranks")
def test_the_part_of_a_distributed_tensor_is_the_very_memory_and_out_of_autograd() -> None:
    part = torch.ones(2, 3)
    whole = nn.Parameter(cut(part, mesh(RANKS), Shard(0)))
    assert whole.shape == (8, 3)
    assert sharding.local(whole).data_ptr() == part.data_ptr()
    assert not sharding.local(whole).requires_grad
    assert sharding.is_sharded(whole)


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize(
    ("shape", "placements", "share"),
    [
        ((4,), (Shard(0),), 1.0),
        ((4,), (Replicate(),), 0.25),
        ((2, 2), (Replicate(), Shard(0)), 0.5),
        ((2, 2), (Shard(0), Replicate()), 0.5),
        ((2, 2), (Shard(0), Shard(1)), 1.0),
        ((2, 2), (Shard(0), Shard(0)), 1.0),
        ((2, 2), (Replicate(), Replicate()), 0.25),
        ((1, 2, 2), (Replicate(), Shard(0), Shard(1)), 1.0),
    ],
)
def test_a_part_counts_once_however_many_ranks_hold_it(
    shape: tuple[int, ...], placements: tuple[Any, ...], share: float
) -> None:
    plain = nn.Parameter(torch.ones(5))
    found = parts(nn.Parameter(cut(torch.ones(2, 2), mesh(*shape), *placements)), plain)
    assert found.shares.tolist() == [share, 1 / RANKS]
    assert found.elements[1] == 5
    assert found.elements[0] == 4 * share * RANKS


@pytest.mark.usefixtures("ranks")
def test_parts_of_uneven_size_and_empty_ones_count_like_any_other() -> None:
    # torch.chunk of one element in four: all ranks but the first hold none.
    empty = cut(torch.ones(0), mesh(RANKS), Shard(0), shape=(1,))
    short = cut(torch.ones(2), mesh(RANKS), Shard(0), shape=(5,))
    found = parts(empty, short)
    assert found.shares.tolist() == [1, 1]
    assert found.elements.tolist() == [1, 5]
    assert sharding.local(empty).numel() == 0


@pytest.mark.usefixtures("ranks")
def test_a_summand_is_no_part() -> None:
    parameter = cut(torch.ones(3), mesh(RANKS), Replicate())
    gradient = cut(torch.ones(3), mesh(RANKS), Partial())
    assert sharding.is_partial(gradient)
    assert not sharding.is_partial(parameter)
    assert not sharding.lies_like(gradient, parameter)
    assert sharding.lies_like(parameter.clone(), parameter)


@pytest.mark.usefixtures("ranks")
def test_units_are_cut_by_tensor_parallelism_alone() -> None:
    layer = nn.Linear(3, 8)

    def shard(on: DeviceMesh, units: int, *placements: Any) -> tuple[int, int]:
        rows = 8 // int(torch.tensor([s for s, p in zip(on.shape, placements, strict=True) if p.is_shard(0)]).prod())
        layer.weight = nn.Parameter(cut(torch.ones(rows, 3), on, *placements))
        return sharding.unit_slice(layer, units)

    assert sharding.unit_slice(None, 8) == (0, 8)
    assert sharding.unit_slice(layer, 8) == (0, 8)
    assert shard(mesh(4), 2, Shard(0)) == (2, 8)
    assert shard(mesh(4), 8, Shard(0)) == (0, 8), "gathered for the forward, or afterwards by the plan"
    assert shard(mesh(4), 8, Replicate()) == (0, 8)
    assert shard(mesh(2, 2), 4, Shard(0), Shard(0)) == (4, 8), "rank 1 of 4 is the second of its two"
    assert shard(mesh(2, 2), 4, Replicate(), Shard(0)) == (4, 8)
    assert shard(mesh(2, 2), 8, Shard(0), Replicate()) == (0, 8)


@pytest.mark.usefixtures("ranks")
def test_units_that_do_not_divide_evenly_are_cut_as_torch_cuts_them() -> None:
    layer = nn.Linear(3, 5)
    layer.weight = nn.Parameter(cut(torch.ones(2, 3), mesh(4), Shard(0), shape=(5, 3)))
    assert sharding.unit_slice(layer, 2) == (2, 5)
    assert sharding.unit_slice(layer, 3) == (0, 3), "not what the second of four has of five: heads of its units, say"


def test_memory_that_was_freed_is_not_read() -> None:
    gathered = torch.ones(4)
    assert sharding.is_here(gathered)
    gathered.untyped_storage().resize_(0)
    assert not sharding.is_here(gathered)
    assert sharding.is_here(torch.empty(0))
    assert sharding.is_here(torch.eye(2).to_sparse())


class _FlatParameter(nn.Parameter):
    """What FSDP1 makes of the parameters of several layers, as far as it is looked at."""

    _is_flat_param = True
    _fsdp_flattened = True


def _flattened(number: int, sharded: bool) -> tuple[nn.Module, list[nn.Parameter], nn.Parameter]:
    originals = [nn.Parameter(torch.ones(n)) for n in (2, 0)]
    for p in originals:
        p._fsdp_flattened = True  # type: ignore[attr-defined]
    flat = _FlatParameter(torch.ones(2))
    vars(flat).update(_params=originals, _numels=(6, 3))
    module = nn.Module()
    module._handle = SimpleNamespace(  # type: ignore[assignment]
        flat_param=flat, uses_sharded_strategy=sharded, world_size=number
    )
    return module, originals, flat


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize(("sharded", "number", "share"), [(True, 4, 1.0), (True, 2, 0.5), (False, 4, 0.25)])
def test_views_into_a_flat_parameter_are_cut_as_it_is(sharded: bool, number: int, share: float) -> None:
    module, originals, flat = _flattened(number, sharded)
    assert all(map(sharding.is_sharded, originals))
    found = sharding.parts_of([*originals, nn.Parameter(torch.ones(7))], nn.Sequential(module))
    assert found is not None
    assert found.shares.tolist() == [share, share, 0.25]
    assert found.elements.tolist() == [6, 3, 7]
    assert sharding.is_flat(flat)
    whole = sharding.parts_of([flat], module)
    assert whole is not None
    assert (whole.shares.tolist(), whole.elements.tolist()) == ([share], [9])


def test_what_belongs_to_several_layers_is_a_layer_of_its_own_to_nobody() -> None:
    module, _, flat = _flattened(4, True)
    module.register_parameter("_flat_param", flat)
    table = LayerTable(nn.Sequential(nn.Sequential(module), nn.Linear(1, 1)), lambda name: True)
    assert [row.name for row in table.rows] == ["1"]
    assert table.row_of_parameter(flat) == -1


def test_what_deepspeed_holds_is_known_by_its_parameters_and_by_its_optimizer() -> None:
    class DeepSpeedZeroOptimizer:
        """In its place, for it is no optimizer of torch's."""

    DeepSpeedZeroOptimizer.__module__ = "deepspeed.runtime.zero.stage_1_and_2"

    class FusedAdam(torch.optim.SGD):
        """Its own, which steps plain parameters."""

    FusedAdam.__module__ = "deepspeed.ops.adam.fused_adam"
    parameter = nn.Parameter(torch.ones(1))
    assert sharding.is_hidden(DeepSpeedZeroOptimizer())
    assert not sharding.is_hidden(FusedAdam([parameter]))
    assert not sharding.is_hidden(torch.optim.SGD([parameter]))
    assert not sharding.is_partitioned(parameter)
    parameter.ds_id = 0  # type: ignore[attr-defined]
    assert sharding.is_partitioned(parameter)
    assert sharding.is_sharded(parameter)


def test_a_class_that_fsdp_has_made_is_told_as_the_user_wrote_it() -> None:
    class FSDPModule:
        pass

    assert sharding.plain_class(nn.Linear(1, 1)) is nn.Linear
    made = type("FSDPLinear", (FSDPModule, nn.Linear), {})(1, 1)
    assert sharding.plain_class(made) is nn.Linear


def test_who_shards_nothing_does_not_wait_for_an_import() -> None:
    code = (
        "import sys, torch; from gradscope.model import sharding; t = torch.ones(1)\n"
        "assert sharding.local(t) is t and sharding.parts_of([t], torch.nn.Linear(1, 1)) is None\n"
        "sys.exit('torch.distributed.tensor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
