"""Compiled models: two graphs, no break, the same measurements, and nothing that silently does not fire."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from gradscope import GradScope
from gradscope.model.compiled import asks_for_cuda_graphs, compiled_roots
from gradscope.model.forward import CUDA_GRAPHS, FUNCTIONS
from tests.models import Batch, Batches, Classifier, mlp, trainer


class Block(nn.Module):
    """Not a Sequential: where torch up to 2.8 is told to compile a class of its own it compiles nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.act(self.linear(x)))


class Blocks(nn.Module):
    """Blocks that share their code, as those of a transformer do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(20, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(10))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.head(x))


def by_module(net: nn.Module, **options: Any) -> Any:
    net.compile(**options)
    return Classifier(net)


def by_function(net: nn.Module, **options: Any) -> Any:
    return Classifier(torch.compile(net, **options))  # type: ignore[arg-type]


def as_a_whole(net: nn.Module, **options: Any) -> Any:
    return torch.compile(Classifier(net), **(options | {"fullgraph": False}))


def by_forward(net: nn.Module, **options: Any) -> Any:
    net.forward = torch.compile(net.forward, **options)
    return Classifier(net)


def by_region(net: nn.Module, **options: Any) -> Any:
    assert isinstance(net, Blocks)
    for block in net.blocks:
        block.compile(**options)
    return Classifier(net)


WAYS: list[tuple[Callable[..., Any], Callable[[], nn.Module]]] = [
    (by_module, Blocks),
    (by_function, mlp),
    (as_a_whole, mlp),
    (by_forward, mlp),
    (by_region, Blocks),
]


def fit(model: Any, batches: int = 14, every: int = 3) -> GradScope:
    scope = GradScope(every_n_steps=every, summary=False)
    counters.clear()
    trainer(scope).fit(model, Batches(number=batches))
    return scope


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, where regions follow each other
@pytest.mark.parametrize(("way", "net"), WAYS, ids=[way.__name__ for way, _ in WAYS])
def test_two_graphs_no_break_and_the_same_measurements(way: Callable[..., Any], net: Callable[[], nn.Module]) -> None:
    torch.compiler.reset()
    counters.clear()
    trainer().fit(way(net(), backend="aot_eager", fullgraph=True), Batches(number=4))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 1
    torch.manual_seed(3)
    plain = fit(Classifier(net())).run
    torch.manual_seed(3)
    scope = fit(way(net(), backend="aot_eager", fullgraph=True))
    assert counters["stats"]["unique_graphs"] == 2 * graphs
    assert sum(counters["graph_break"].values()) == 0
    run = scope.run
    assert list(run.steps) == [*range(10), 12]
    assert run.layers == plain.layers
    for metric, values in plain.metrics.items():
        np.testing.assert_allclose(run.metric(metric), values, rtol=1e-5, atol=1e-7, err_msg=metric)
    assert list(run.coverage.unseen) == [FUNCTIONS]
    assert run.coverage.unseen[FUNCTIONS].startswith("not looked for, because torch.compile compiles")
    torch.compiler.reset()


def test_a_model_that_was_compiled_and_called_before_is_seen_all_the_same() -> None:
    torch.compiler.reset()
    model = by_function(mlp(), backend="aot_eager", fullgraph=True)
    model.net(torch.randn(16, 20))
    scope = fit(model)
    assert np.isfinite(scope.run.metric("act_mean")[:, scope.run.rows("rectifier")]).all()
    again = fit(model)
    assert np.isfinite(again.run.metric("act_mean")[:, again.run.rows("rectifier")]).all(), "a second fit works too"
    torch.compiler.reset()


def test_compiled_training_is_bitwise_the_same_and_leaves_no_hook() -> None:
    weights = []
    for callbacks in ([GradScope(every_n_steps=2, summary=False)], []):
        torch.compiler.reset()
        torch.manual_seed(3)
        model = by_module(mlp(nn.SELU), backend="aot_eager", fullgraph=True)
        trainer(*callbacks).fit(model, Batches(number=14))
        weights.append(model.state_dict())
        assert not any(m._forward_hooks for m in model.modules())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.compiler.reset()


def test_hooks_that_do_not_fire_are_named() -> None:
    torch.compiler.reset()

    class Hidden(Classifier):
        """Its compiled code is out of sight: in a closure that was traced before the fit."""

        def __init__(self) -> None:
            super().__init__(mlp())
            net = self.net
            compiled = torch.compile(lambda x: net(x), backend="eager")
            compiled(torch.randn(16, 20))
            self.forwards = [compiled]

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.forwards[0](batch[0]), batch[1])

    scope = fit(Hidden())
    assert np.isfinite(scope.run.metric("grad_norm")[:, scope.run.rows("linear")]).all()
    assert {"net.1", "net.3"} <= set(scope.run.coverage.unseen)
    torch.compiler.reset()


@pytest.mark.parametrize(("way", "net"), WAYS, ids=[way.__name__ for way, _ in WAYS])
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, False),
        ({"backend": "eager"}, False),
        ({"mode": "max-autotune-no-cudagraphs"}, False),
        ({"mode": "reduce-overhead"}, True),
        ({"mode": "max-autotune"}, True),
        ({"options": {"triton.cudagraphs": True}}, True),
        ({"options": {"triton.cudagraphs": False}}, False),
        ({"backend": "cudagraphs"}, True),
    ],
    ids=str,
)
def test_who_asks_for_cuda_graphs_is_known(
    way: Callable[..., Any], net: Callable[[], nn.Module], options: dict[str, Any], asked: bool
) -> None:
    roots = compiled_roots(way(net(), **options))
    assert roots
    assert [asks_for_cuda_graphs(root) for _, root in roots] == [asked] * len(roots)


def test_cuda_graphs_for_everything_are_known() -> None:
    with torch._inductor.config.patch({"triton.cudagraphs": True}):
        assert asks_for_cuda_graphs(by_module(mlp()).net)
        assert not asks_for_cuda_graphs(by_module(mlp(), backend="eager").net)
        assert not asks_for_cuda_graphs(by_module(mlp(), options={"triton.cudagraphs": False}).net)
    assert not asks_for_cuda_graphs(by_module(mlp()).net)


def test_what_a_forward_closes_over_is_not_asked() -> None:
    class Anything:
        """Has whatever it is asked for."""

        def __getattr__(self, name: str) -> Any:
            return self

    def make(empty: bool) -> Callable[[Tensor], Tensor]:
        anything = Anything()

        def forward(x: Tensor) -> Tensor:
            assert anything
            return x if empty else later(x)

        if not empty:
            later = torch.relu
        return forward

    for empty in (True, False):
        net: Any = mlp()
        net.forward = make(empty)
        net.compile(mode="reduce-overhead")
        assert asks_for_cuda_graphs(net)


def test_what_runs_as_cuda_graphs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing does; on a CUDA device a hook in it would end the training."""
    monkeypatch.setattr("gradscope.model.forward._runs_as_cuda_graphs", lambda root: True)
    torch.compiler.reset()
    scope = fit(by_function(mlp(), backend="aot_eager", fullgraph=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert {name: scope.run.coverage.unseen[name] for name in ("net.1", "net.3")} == dict.fromkeys(
        ("net.1", "net.3"), CUDA_GRAPHS
    )
    assert np.isfinite(scope.run.metric("grad_norm")[:, scope.run.rows("linear")]).all()
    torch.compiler.reset()
