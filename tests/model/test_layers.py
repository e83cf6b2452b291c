import numpy as np
import pytest
import torch
from torch import nn

from gradscope.activations import RECTIFIER, SATURATING, Activation
from gradscope.model.layers import CALL_LIMIT, LayerTable
from gradscope.patterns import NamePatterns
from gradscope.records import Layer


def table_of(model: nn.Module, *patterns: str) -> LayerTable:
    return LayerTable(model, NamePatterns(patterns or ("*",)))


def test_rows_are_modules_with_parameters_and_activations() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.Dropout(), nn.Flatten(), nn.PReLU())
    assert table_of(net).rows == [
        Layer("0", "Conv2d", "convolution"),
        Layer("1", "BatchNorm2d", "normalization"),
        Layer("2", "ReLU6", "rectifier"),
        Layer("5", "PReLU", "smooth"),
    ]


def test_parameters_of_the_model_itself_have_a_row() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    assert table_of(Scale()).rows == [Layer("(root)", "Scale", "parameters")]


def test_a_model_of_nothing_has_no_rows() -> None:
    table = table_of(nn.Sequential(nn.Flatten(), nn.Dropout()))
    assert table.rows == []
    assert table.candidates == {}
    assert table.order()[0].shape == (0,)


def test_patterns_include_and_exclude() -> None:
    net = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "head": nn.Linear(2, 2)})
    names = [layer.name for layer in table_of(net, "encoder.*", "!*.1").rows]
    assert names == ["encoder.0"]
    assert [layer.name for layer in table_of(net, "!head").rows] == ["encoder.0", "encoder.1"]
    assert NamePatterns(("decoder.*", "head", "!nothing")).without_match(["head"]) == ["decoder.*", "!nothing"]


def test_a_parameter_that_is_not_watched_has_no_row() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    table = table_of(net, "1")
    first, second = net[0], net[1]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert table.row_of_parameter(first.weight) == -1
    assert table.row_of_parameter(second.weight) == 0


def test_a_tied_weight_belongs_to_its_first_owner() -> None:
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    embedding, linear = net[0], net[1]
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(linear, nn.Linear)
    linear.weight = embedding.weight
    assert table_of(net).row_of_parameter(linear.weight) == 0


def test_a_shared_activation_has_a_row_for_each_call_up_to_the_limit() -> None:
    shared = nn.ReLU()
    table = table_of(nn.Sequential(shared))
    for _ in range(2):  # each forward counts its calls anew
        table.restart_calls()
        rows = [table.row_of_call(shared) for _ in range(CALL_LIMIT + 3)]
        assert rows == [*range(CALL_LIMIT), *[CALL_LIMIT - 1] * 3]
    assert [layer.name for layer in table.rows[:3]] == ["0", "0#2", "0#3"]


def test_a_layer_with_parameters_has_one_row_however_often_it_runs() -> None:
    linear = nn.Linear(2, 2)
    table = table_of(nn.Sequential(linear))
    assert [table.row_of_call(linear) for _ in range(3)] == [0, 0, 0]


def test_order_is_that_of_execution_and_what_never_ran_stays_by_its_neighbour() -> None:
    net = nn.ModuleList([nn.Linear(1, 1) for _ in range(4)])
    table = table_of(net)
    for i in (3, 1, 0, 1):
        table.row_of_call(net[i])
    order, layers = table.order()
    assert order.tolist() == [3, 1, 2, 0]
    assert order.dtype == np.int64
    assert [layer.name for layer in layers] == ["3", "1", "2", "0"]
    assert table.order()[1] is layers, "readers of records know layers by identity"
    assert table.never_ran() == [2]


def test_a_container_with_parameters_of_its_own_comes_before_what_is_inside() -> None:
    outer, inner = nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Linear(1, 1)
    outer.register_parameter("scale", nn.Parameter(torch.ones(1)))
    table = table_of(nn.Sequential(inner, outer))
    for module in (inner, outer[0], outer[1], outer):  # hooks tell when a module ends
        table.row_of_call(module)
    assert [layer.name for layer in table.order()[1]] == ["0", "1", "1.0", "1.1"]


def test_a_module_that_is_not_of_the_model_has_no_row() -> None:
    assert table_of(nn.Sequential(nn.ReLU())).row_of_call(nn.ReLU()) is None


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Hardtanh(), Activation(SATURATING, (-1.0, 1.0))),
        (nn.Hardtanh(-5, 5), Activation(SATURATING, (-5, 5))),
        (nn.Hardtanh(0, 20), Activation(RECTIFIER)),
        (nn.ReLU6(), Activation(RECTIFIER)),
    ],
)
def test_the_limits_of_a_hardtanh_are_its_own(module: nn.Module, expected: Activation) -> None:
    assert table_of(nn.Sequential(module)).activations == {0: expected}


def test_names_are_free_of_wrappers() -> None:
    net = nn.Module()
    net.add_module("encoder", nn.Module())
    net.encoder.add_module("_orig_mod", nn.Linear(1, 1))  # type: ignore[union-attr]
    assert [layer.name for layer in table_of(net).rows] == ["encoder"]


def test_lazy_modules_have_rows_before_they_know_their_shape() -> None:
    lazy = nn.LazyLinear(3)
    table = table_of(nn.Sequential(lazy))
    lazy(torch.ones(2, 5))
    assert table.row_of_parameter(lazy.weight) == 0
