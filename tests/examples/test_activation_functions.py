"""The written derivatives of the article against those that autograd takes of the CNN's activations."""

import math
from collections.abc import Callable
from pathlib import Path

import activation_functions
import pytest
import torch
from activation_cnn import ACTIVATIONS
from activation_functions import slopes
from torch import Tensor

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805


def sigmoid(x: Tensor) -> Tensor:
    s = 1 / (1 + (-x).exp())
    return s * (1 - s)


def selu(x: Tensor) -> Tensor:
    return torch.where(x > 0, SCALE, SCALE * ALPHA * x.exp())


def gelu(x: Tensor) -> Tensor:
    inner = 0.0356774 * x**3 + 0.797885 * x
    return 0.5 * inner.tanh() + (0.0535161 * x**3 + 0.398942 * x) / inner.cosh() ** 2 + 0.5


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": sigmoid,
    "relu": lambda x: torch.where(x > 0, 1.0, torch.zeros_like(x)),
    "elu": lambda x: torch.where(x > 0, 1.0, 0.2 * x.exp()),
    "leaky_relu": lambda x: torch.where(x > 0, 1.0, torch.full_like(x, 0.2)),
    "selu": selu,
    "gelu": gelu,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_written_derivative(activation: str) -> None:
    of_it = slopes(activation)
    # GELU's is written with six digits.
    torch.testing.assert_close(of_it.slope, WRITTEN[activation](of_it.x).double(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("activation", "place", "greatest"),
    [
        ("sigmoid", 0.0, 0.25),
        ("relu", 0.001, 1.0),
        ("elu", 0.001, 1.0),
        ("leaky_relu", 0.001, 1.0),
        ("selu", 0.0, ALPHA * SCALE),
        ("gelu", 1.419, 1.1289),  # √2, were it not for the approximation by a tanh
    ],
)
def test_the_greatest_slope(activation: str, place: float, greatest: float) -> None:
    assert slopes(activation).greatest == pytest.approx((place, greatest), abs=1e-3)


@pytest.mark.parametrize(
    ("activation", "share"),
    [
        ("relu", 0.5),
        ("leaky_relu", 0.0),
        ("elu", 0.5 * math.erfc(math.log(20) / math.sqrt(2))),  # 0.2 eˣ < 0.01
        ("selu", 0.5 * math.erfc(-math.log(0.01 / (ALPHA * SCALE)) / math.sqrt(2))),
        ("sigmoid", math.erfc(math.log((1 + math.sqrt(0.96)) / (1 - math.sqrt(0.96))) / math.sqrt(2))),  # s(1-s) < 0.01
    ],
)
def test_the_share_of_inputs_at_which_nothing_passes(activation: str, share: float) -> None:
    assert slopes(activation).flat_share == pytest.approx(share, abs=1e-3)


def test_the_table_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    activation_functions.main(["--fast", "--logdir", str(tmp_path)])
    out = capsys.readouterr().out
    assert "9.5e-07" in out  # a quarter, ten times
    assert "0.250" in out
    assert (tmp_path / "activation_functions.png").stat().st_size > 30_000


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="`--logdir` must be a folder that can be written to"):
        activation_functions.main(["--logdir", str(tmp_path / "file" / "logs")])
