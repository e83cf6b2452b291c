"""What ranks share of sharded parameters, against the same step of one process that holds them whole.

One process plays the ranks one after the other, each in a process group of which it alone exists.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradscope import Thresholds
from gradscope.activations import ACTIVATIONS
from gradscope.every_step import StepWatch
from gradscope.flight import FlightRecorder
from gradscope.model.moment import Moment, Parameters
from gradscope.model.scaling import LossScale
from gradscope.model.sharding import parts_of
from gradscope.probes.gradients import GradientProbe
from gradscope.probes.layout import Layout
from gradscope.probes.liveness import LivenessProbe
from gradscope.probes.probe import Measured, Probe
from gradscope.probes.updates import UpdateProbe
from gradscope.recorder import Recorder
from tests.models import mlp


class Cut(NamedTuple):
    """A parameter: its shape, and how it lies on the mesh; on none where it is plain, so that every rank has it all."""

    shape: tuple[int, ...]
    placements: tuple[Any, ...] = ()


ONE, TWO = (4,), (2, 2)

PLANS: dict[str, tuple[tuple[int, ...], list[Cut]]] = {
    "even": (ONE, [Cut((8, 3), (Shard(0),)), Cut((8,), (Shard(0),))]),
    "uneven": (ONE, [Cut((5, 3), (Shard(0),)), Cut((1,), (Shard(0),)), Cut((2, 2), (Shard(0),))]),
    "by columns": (ONE, [Cut((3, 8), (Shard(1),)), Cut((3,), (Replicate(),))]),
    "plain beside sharded": (ONE, [Cut((4, 4), (Shard(0),)), Cut((7,))]),
    "replicated": (TWO, [Cut((6, 2), (Replicate(), Shard(0))), Cut((3,), (Replicate(), Replicate()))]),
    "twice": (TWO, [Cut((8, 6), (Shard(0), Shard(1))), Cut((9,), (Shard(0), Shard(0)))]),
}


@contextmanager
def rank_of_four(rank: int) -> Iterator[None]:
    """Be `rank`; whatever talks to the others is a fault."""
    dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
    try:
        with CommDebugMode() as calls:  # type: ignore[no-untyped-call]  # torch has no types for it
            yield
        assert calls.get_total_counts() == 0
    finally:
        dist.destroy_process_group()


def part(whole: Tensor, cut: Cut, mesh: DeviceMesh) -> Tensor:
    """What the rank whose turn it is holds of `whole`."""
    here, coordinate = whole.clone(), mesh.get_coordinate()
    if not cut.placements or coordinate is None:
        return here
    for size, index, placement in zip(mesh.shape, coordinate, cut.placements, strict=True):
        if isinstance(placement, Shard):
            chunks = here.chunk(size, placement.dim)
            here = chunks[index].clone() if index < len(chunks) else here.narrow(placement.dim, 0, 0)
    return DTensor.from_local(here, mesh, cut.placements, run_check=False, shape=whole.shape, stride=whole.stride())


class Wholes(NamedTuple):
    """The parameters of a step, its gradients before and after clipping, and its learning rate."""

    weights: list[Tensor]
    gradients: list[Tensor | None]
    clip: float = 0.25
    lr: float = 0.1


def wholes(cuts: Sequence[Cut]) -> Wholes:
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(cut.shape, generator=generator) for cut in cuts]
    return Wholes(weights, [torch.randn(cut.shape, generator=generator) for cut in cuts])


def step(probes: Sequence[Probe], parameters: Parameters, gradients: Sequence[Tensor | None], of: Wholes) -> None:
    """A step of SGD with clipping, by hand: before and after, the probes look."""
    for p, g in zip(parameters.tensors, gradients, strict=True):
        p.grad = g
    moment = Moment(0, parameters, untouched=True)
    for probe in probes:
        probe.before_optimizer_step(moment)
    for distributed in (False, True):  # all at once, as torch clips: DTensors do not count such a change
        if clipped := [g for g in gradients if g is not None and isinstance(g, DTensor) == distributed]:
            torch._foreach_mul_(clipped, of.clip)
    torch.optim.SGD(parameters.tensors, lr=of.lr, foreach=False).step()
    for probe in probes:
        probe.after_optimizer_step(moment)


def probes() -> tuple[GradientProbe, UpdateProbe]:
    return GradientProbe(Thresholds()), UpdateProbe(Thresholds())


def layout(parameters: int) -> Layout:
    nothing = np.empty(0, dtype=np.int64)
    return Layout(4, nothing, (), nothing, 1, (parameters,))


def rows_of(cuts: Sequence[Cut]) -> npt.NDArray[np.int64]:
    """The first parameter is the weight of a layer with the second, any other belongs to the next."""
    return np.minimum(np.arange(len(cuts)) // 2, 1).astype(np.int64)


def alone(cuts: Sequence[Cut], of: Wholes) -> list[Measured]:
    tensors = tuple(nn.Parameter(w.clone()) for w in of.weights)
    own = probes()
    step(own, Parameters(tensors, rows_of(cuts)), [None if g is None else g.clone() for g in of.gradients], of)
    pending = [probe.finish(2) for probe in own]
    return [p.resolve(torch.cat([t.reshape(-1) for t in p.tensors]).numpy()) for p in pending]


def together(cuts: Sequence[Cut], shape: tuple[int, ...], of: Wholes, only_where_here: bool = False) -> list[Measured]:
    """The same of four ranks; with `only_where_here` a gradient is None of which a rank has nothing, as with FSDP1."""
    sums: list[npt.NDArray[np.float64]] = []
    for rank in range(4):
        with rank_of_four(rank):
            mesh = DeviceMesh("cpu", torch.arange(4).reshape(shape))
            tensors = tuple(nn.Parameter(part(w, c, mesh)) for w, c in zip(of.weights, cuts, strict=True))
            gradients = [None if g is None else part(g, c, mesh) for g, c in zip(of.gradients, cuts, strict=True)]
            if only_where_here:
                gradients = [g if g is not None and _local(g).numel() else None for g in gradients]
            parameters = Parameters(tensors, rows_of(cuts), parts_of(tensors, nn.Module()))
            step(own := probes(), parameters, gradients, of)
            shared = [probe.share(layout(len(cuts))).numpy() for probe in own]
        mergings = [probe.merging() for probe in own]
        sizes = [merging.size(layout(len(cuts))) for merging in mergings]
        assert [len(s) for s in shared] == sizes
        sums = [a + b for a, b in zip(sums, shared, strict=True)] if sums else shared
    return [m.measured(layout(len(cuts)), s, 2) for m, s in zip(mergings, sums, strict=True)]


def _local(tensor: Tensor) -> Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def assert_alike(expected: Sequence[Measured], found: Sequence[Measured]) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        for name, values in one.metrics.items():
            np.testing.assert_allclose(other.metrics[name], values, rtol=1e-6, err_msg=name)
        assert other.globals == pytest.approx(one.globals, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("plan", PLANS)
def test_ranks_together_measure_what_one_process_measures(plan: str) -> None:
    shape, cuts = PLANS[plan]
    expected = alone(cuts, wholes(cuts))
    assert np.isfinite(expected[0].metrics["grad_norm"][0])
    assert expected[0].globals["clip_coefficient"] == pytest.approx(0.25)
    assert_alike(expected, together(cuts, shape, wholes(cuts)))


def test_a_sample_of_a_part_stands_for_all_of_it() -> None:
    cuts = [Cut((128, 100), (Shard(0),)), Cut((5000,), (Shard(0),))]
    of = Wholes([torch.ones(cut.shape) for cut in cuts], [torch.ones(cut.shape) for cut in cuts])
    _, updates = together(cuts, ONE, of)
    assert updates.metrics["weight_norm"][0] == pytest.approx(math.sqrt(128 * 100 + 5000), rel=1e-6)
    assert updates.metrics["update_ratio"][0] == pytest.approx(of.lr * of.clip, rel=1e-5)


def test_a_gradient_that_is_zero_on_one_rank_is_one_and_one_that_no_rank_has_is_none() -> None:
    shape, cuts = PLANS["even"]
    of = wholes(cuts)
    assert of.gradients[0] is not None
    of.gradients[0][:6] = 0
    expected = alone(cuts, of)
    assert expected[0].metrics["no_gradient_fraction"][0] == 0
    assert_alike(expected, together(cuts, shape, of))
    of = of._replace(gradients=[of.gradients[0], None])
    expected = alone(cuts, of)
    assert expected[0].metrics["no_gradient_fraction"][0] == 0.5
    assert_alike(expected, together(cuts, shape, of))


def test_a_rank_without_a_part_says_nothing_of_the_gradient() -> None:
    shape, cuts = PLANS["uneven"]
    assert_alike(alone(cuts, wholes(cuts)), together(cuts, shape, wholes(cuts), only_where_here=True))


def test_no_gradient_at_all_is_absent() -> None:
    shape, cuts = PLANS["uneven"]
    of = wholes(cuts)._replace(gradients=[None] * 3)
    found = together(cuts, shape, of)
    assert_alike(alone(cuts, of), found)
    assert np.isnan(found[0].metrics["grad_norm"]).all()
    assert (found[0].metrics["no_gradient_fraction"] == 1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_on_one_rank_is_not_finite(bad: float) -> None:
    shape, cuts = PLANS["replicated"]
    of = wholes(cuts)
    assert of.gradients[0] is not None
    of.gradients[0][5, 1] = bad
    expected = alone(cuts, of)
    assert expected[0].metrics["nonfinite"].any()
    assert_alike(expected, together(cuts, shape, of))


def test_a_summand_of_a_gradient_is_not_measured_and_not_missed() -> None:
    with rank_of_four(2):
        mesh = DeviceMesh("cpu", torch.arange(4))
        whole, scale = nn.Parameter(torch.ones(2)), nn.Parameter(part(torch.ones(3), Cut((3,), (Replicate(),)), mesh))
        whole.grad = torch.ones(2)
        scale.grad = DTensor.from_local(torch.ones(3), mesh, (Partial(),), run_check=False)
        tensors = whole, scale
        parameters = Parameters(tensors, np.array([0, 1]), parts_of(tensors, nn.Module()))
        probe = GradientProbe(Thresholds())
        probe.before_optimizer_step(Moment(0, parameters))
        probe.after_optimizer_step(Moment(0, parameters))
        sums = 4 * probe.share(layout(2)).numpy()
    measured = probe.merging().measured(layout(2), sums, 2)
    np.testing.assert_allclose(measured.metrics["grad_norm"], [2**0.5, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(measured.metrics["no_gradient_fraction"], [0, np.nan])
    assert list(probe.unmeasured) == [1]
    assert probe.unmeasured[1].startswith("gradient not measured: what each rank holds of it has yet to be summed up")


def sharded_net() -> tuple[nn.Sequential, DeviceMesh]:
    mesh = DeviceMesh("cpu", torch.arange(4), mesh_dim_names=("tensor_parallel",))
    net = mlp(widths=(20, 16, 12, 4))
    for module in net:
        for name, p in list(module.named_parameters(recurse=False)):
            whole = DTensor.from_local(p.detach().chunk(4)[dist.get_rank()], mesh, (Shard(0),), run_check=False)
            setattr(module, name, nn.Parameter(whole))
    return net, mesh


def test_nothing_of_a_recorded_step_and_of_a_step_between_talks_to_other_ranks() -> None:
    with rank_of_four(1):
        net, mesh = sharded_net()
        optimizer: Optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for p in net.parameters():
            p.grad = DTensor.from_local(torch.full_like(_local(p), torch.nan), mesh, (Shard(0),), run_check=False)
        recorder = Recorder(net, Thresholds(), lambda name: True)
        watch = StepWatch(recorder.table, recorder.forward.trace, LossScale(None), 5)
        loss = DTensor.from_local(torch.tensor(1.0), mesh, (Partial(),), run_check=False)
        recorder.begin([optimizer], everything=True)
        watch.before_backward(0, loss, [loss])
        output = DTensor.from_local(torch.ones(3, 4), mesh, (Shard(1),), run_check=False)
        net[1](output)
        recorder.before_optimizer_step(optimizer)
        watch.before_optimizer_step(0, optimizer, recorder.optimizers.before_idle_step)
        optimizer.step()
        recorder.end_batch(None)
        watch.end_batch(0, None)
        recorder.end(0)
        record = recorder.poll()
        assert record is not None
        assert recorder.failures == {}
        row = [layer.name for layer in record.layers].index("1")
        assert record.metrics["act_mean"][row] == 1
        flight = watch.flight()
        assert flight is not None
        assert np.isnan(flight.grad_norm).all()
        assert flight.layers == ("0", "2", "4")


def test_an_activation_of_summands_is_not_measured_and_says_so() -> None:
    with rank_of_four(1):
        mesh = DeviceMesh("cpu", torch.arange(4))
        recorder = Recorder(net := nn.Sequential(nn.Hardtanh()), Thresholds(), lambda name: True)
        recorder.begin([])
        recorder._see(net[0], DTensor.from_local(torch.ones(3, 4), mesh, (Partial(),), run_check=False))
        recorder.detach()
    assert recorder.failures["0"].startswith("not measured: what each rank holds of it has yet to be summed up")


def test_the_flight_recorder_takes_the_parts_elsewhere_for_like_the_one_here() -> None:
    with rank_of_four(3):
        net, mesh = sharded_net()
        recorder = Recorder(net, Thresholds(), lambda name: True)
        for p in net.parameters():
            p.grad = DTensor.from_local(torch.ones_like(_local(p)), mesh, (Shard(0),), run_check=False)
        flights = FlightRecorder(recorder.table, 1)
        flights.before_optimizer_step(recorder.optimizers.before_step(torch.optim.SGD(net.parameters(), lr=0.1)))
        flights.end(0, [])
        np.testing.assert_allclose(flights.flight().grad_norm[0], np.sqrt([320, 192, 48]), rtol=1e-6)


def test_units_that_tensor_parallelism_has_cut_lie_side_by_side() -> None:
    sums = np.zeros(0)
    relu = ACTIVATIONS["ReLU"]
    everywhere = Layout(4, np.array([0]), (relu.kind,), np.array([8]), 1, (2,))
    for rank in range(4):
        with rank_of_four(rank):
            mesh = DeviceMesh("cpu", torch.arange(4))
            layer = nn.Linear(3, 8)
            layer.weight = nn.Parameter(part(torch.ones(8, 3), Cut((8, 3), (Shard(0),)), mesh))
            probe = LivenessProbe(Thresholds())
            probe.begin_batch()
            # The first unit of each rank fires, and both of the last rank.
            probe.observe(0, relu, torch.tensor([[1.0, float(rank == 3)]]), layer)
            shared = probe.share(everywhere).numpy()
        assert probe.units == {0: 8}
        sums = shared if rank == 0 else sums + shared
    assert probe.merging().measured(everywhere, sums, 1).metrics["dead_fraction"].tolist() == [0.375]


@pytest.mark.parametrize("agreed", [0, 1, 3])
def test_other_parameters_than_were_agreed_on_count_from_the_next_record_on(agreed: int) -> None:
    cuts = [Cut((8, 3), (Shard(0),)), Cut((8,), (Shard(0),))]
    of = wholes(cuts)
    with rank_of_four(0):
        mesh = DeviceMesh("cpu", torch.arange(4))
        tensors = tuple(nn.Parameter(part(w, c, mesh)) for w, c in zip(of.weights, cuts, strict=True))
        parameters = Parameters(tensors, rows_of(cuts), parts_of(tensors, nn.Module()))
        gradients = [part(g, c, mesh) for g, c in zip(of.gradients, cuts, strict=True) if g is not None]
        step(own := probes(), parameters, gradients, of)
        for probe in own:
            merging = probe.merging()
            shared = probe.share(layout(agreed)).numpy()
            assert len(shared) == merging.size(layout(agreed))
            measured = merging.measured(layout(agreed), 4 * shared, 2)
            assert all(np.isnan(values).all() for values in measured.metrics.values()), "absent, and not zero"
            assert measured.globals == {}
            size = merging.size(layout(len(cuts)))
            assert np.count_nonzero(probe.share(layout(len(cuts))).numpy()) > size / 2, "now they are agreed on"
