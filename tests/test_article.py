"""The closed forms of the article that explains six activations by what their derivatives do to gradients."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradscope import GradScope, Run
from tests.models import Batches, Classifier, mlp, trainer

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def sigmoid_slope(x: float) -> float:
    s = 1 / (1 + math.exp(-x))
    return s * (1 - s)


def test_the_slope_of_a_sigmoid() -> None:
    assert sigmoid_slope(10) == pytest.approx(4.5396e-5, rel=1e-4)
    assert sigmoid_slope(0) == 0.25
    x = torch.linspace(-30, 30, 10_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.sigmoid(x).sum(), x)
    assert slope.max().item() <= 0.25
    assert slope.max().item() == pytest.approx(0.25, abs=1e-6)


class Chain(Classifier):
    """Five sigmoid neurons in a row, w = `weight`, b = 0, under half the squared distance to `target`."""

    target = 0.0

    def __init__(self, weight: float) -> None:
        net = mlp(nn.Sigmoid, (1, 1, 1, 1, 1, 1))
        net.append(nn.Sigmoid())
        super().__init__(net.double(), lr=0.0)
        for name, parameter in net.named_parameters():
            nn.init.constant_(parameter, weight if name.endswith("weight") else 0.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        output: Tensor = self.net(torch.full((1, 1), 0.5, dtype=torch.float64))
        return 0.5 * (output - self.target).square().sum()


def bias_gradients(weight: float) -> list[float]:
    """The product formula: ∂C/∂b_i = σ′(z_i) · Π_{j>i} w σ′(z_j) · ∂C/∂a_5."""
    inputs, activation = [], 0.5
    for _ in range(5):
        inputs.append(weight * activation)
        activation = 1 / (1 + math.exp(-inputs[-1]))
    gradients, signal = [], activation - Chain.target
    for z in reversed(inputs):
        gradients.append(signal * sigmoid_slope(z))
        signal = gradients[-1] * weight
    return gradients[::-1]


def measured(weight: float) -> tuple[list[float], list[float]]:
    """Gradient norms of the five biases: by autograd in the fit, and by GradScope with the weights frozen."""
    chain, scope = Chain(weight), GradScope(summary=False)
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    trainer(scope).fit(chain, Batches(number=1))
    run = scope.run
    rows = run.rows("linear")
    biases = [p.grad.item() for n, p in chain.named_parameters() if p.grad is not None]
    return biases, run.metric("grad_norm")[0, rows].tolist()


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9, 1.0, 3.0, 12.0])
def test_the_measured_chain_is_the_product_formula(weight: float) -> None:
    by_autograd, by_gradscope = measured(weight)
    expected = bias_gradients(weight)
    assert by_autograd == pytest.approx(expected, rel=1e-9)
    assert by_gradscope == pytest.approx(np.abs(expected), rel=1e-6)
    factors = [early / late for early, late in pairwise(by_gradscope)]
    exact = [early / late for early, late in pairwise(expected)]
    assert factors == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_the_chain_vanishes_for_weights_below_one(weight: float) -> None:
    _, norms = measured(weight)
    assert norms == sorted(norms)
    assert norms[0] < 0.25**4 * norms[-1]


def test_the_chain_explodes_for_large_weights_where_the_slope_allows() -> None:
    # With w = 100 and biases that hold each input near 0 the factor w σ′(z) is 25.
    chain, scope = Chain(100.0), GradScope(summary=False)
    for name, parameter in chain.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, -50.0)
    trainer(scope).fit(chain, Batches(number=1))
    norms = scope.run.metric("grad_norm")[0, scope.run.rows("linear")]
    assert (norms[:-1] / norms[1:]).min() > 20
    assert norms[0] > 1e5 * norms[-1]


class ArticleChain(Classifier):
    """Four neurons with weights of 100 whose slopes are 0.13, 0.21, 0.09 and 0.14; the loss falls with the output."""

    def __init__(self) -> None:
        net = mlp(nn.Sigmoid, (1, 1, 1, 1, 1)).append(nn.Sigmoid()).double()
        super().__init__(net, lr=0.5)
        activation, bias = 0.0, 1.56
        self.input = 0.0
        for i, slope in enumerate((0.13, 0.21, 0.09, 0.14)):
            output = (1 + math.sqrt(1 - 4 * slope)) / 2  # σ where σ (1 − σ) is the slope
            z = math.log(output / (1 - output))
            nn.init.constant_(net.get_parameter(f"{2 * i}.weight"), 100.0)
            nn.init.constant_(net.get_parameter(f"{2 * i}.bias"), z - 100 * activation if i else bias)
            self.input = self.input if i else (z - bias) / 100
            activation = output
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name == "0.bias")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        output: Tensor = self.net(torch.full((1, 1), self.input, dtype=torch.float64))
        return -output.sum()


def test_the_exploding_chain_of_the_article() -> None:
    chain, scope = ArticleChain(), GradScope(summary=False)
    trainer(scope).fit(chain, Batches(number=1))
    assert scope.run.metric("grad_norm")[0, 0] == pytest.approx(343.98, rel=1e-6)
    assert chain.net.get_parameter("0.bias").item() == pytest.approx(1.56 + 0.5 * 343.98)
    assert chain.net.get_parameter("0.bias").item() == pytest.approx(173.55)
    assert scope.run.series("total_norm")[0] == pytest.approx(343.98, rel=1e-6)


def test_the_constants_of_selu() -> None:
    assert F.selu(torch.tensor(1.0, dtype=torch.float64)).item() == pytest.approx(SELU_SCALE, rel=1e-15)
    limit = F.selu(torch.tensor(-100.0, dtype=torch.float64)).item()
    assert limit == pytest.approx(-SELU_SCALE * SELU_ALPHA, rel=1e-15)
    # They make mean 0 and variance 1 a fixed point: for z ~ N(0, 1) the outputs have just these moments.
    z = torch.special.ndtri((torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000)
    outputs = F.selu(z)
    assert outputs.mean().item() == pytest.approx(0, abs=1e-4)
    assert outputs.var().item() == pytest.approx(1, abs=1e-4)


def at_initialisation(nonlinearity: str | None) -> Run:
    net = mlp(nn.SELU, (20, *[512] * 32, 4))
    for parameter in net.parameters():
        if nonlinearity is not None:
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity=nonlinearity)  # type: ignore[arg-type]
            else:
                nn.init.zeros_(parameter)
    scope = GradScope(summary=False)
    trainer(scope).fit(Classifier(net, lr=0.0), Batches(number=1, size=512))
    return scope.run


def outside(run: Run) -> int:
    rows = run.rows("self_normalizing")
    mean, variance = run.metric("act_mean")[0, rows], run.metric("act_var")[0, rows]
    return int(((mean < -0.1) | (mean > 0.1) | (variance < 0.8) | (variance > 1.5)).sum())


def test_a_lecun_normal_stack_of_32_selus_starts_inside_the_stated_bounds() -> None:
    run = at_initialisation("linear")  # gain 1: LeCun-normal
    assert len(run.rows("self_normalizing")) == 32
    assert outside(run) == 0


@pytest.mark.parametrize("nonlinearity", [None, "relu"], ids=["torch's default", "kaiming"])
def test_a_stack_of_selus_with_another_initialisation_leaves_them(nonlinearity: str | None) -> None:
    assert outside(at_initialisation(nonlinearity)) >= 30
