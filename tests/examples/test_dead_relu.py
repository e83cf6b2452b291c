import math
from pathlib import Path

import dead_relu as example
import numpy as np
import pytest
import torch
from dead_relu import IN_PEACE, NETS, Trained, flat_units
from experiment import load_data
from mlp import MLP
from torch import nn

from gradscope import Severity, diagnose


@pytest.mark.parametrize(
    ("activation", "slope_far_below"), [("relu", 0.0), ("leaky_relu", 0.2), ("elu", 0.2 * math.exp(-20)), ("gelu", 0.0)]
)
def test_flat_are_the_units_far_below_zero_for_every_image(activation: str, slope_far_below: float) -> None:
    network = MLP(activation, [4, 4])
    bias = network.get_submodule("linear1").get_parameter("bias")
    nn.init.zeros_(network.get_submodule("linear1").get_parameter("weight"))
    bias.data = torch.tensor([1.0, 1.0, 1.0, -20.0])
    expected = 0.25 if slope_far_below < example.FLAT else 0.0
    assert flat_units(network, torch.zeros(3, 1, 28, 28))[0] == expected


def test_a_unit_that_fires_for_one_image_is_not_flat() -> None:
    network = MLP("relu", [1])
    nn.init.ones_(network.get_submodule("linear1").get_parameter("weight"))
    nn.init.zeros_(network.get_submodule("linear1").get_parameter("bias"))
    images = torch.stack([torch.full((1, 28, 28), value) for value in (-1.0, 1.0, -1.0)])
    assert flat_units(network, images) == [0.0]
    assert flat_units(network, images[::2]) == [1.0]


def test_the_accident_lasts_for_its_steps_alone(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = example.parse(["--fast", "--logdir", str(tmp_path)])
    options.accident, options.steps = range(5, 7), 10
    rates: list[float] = []
    step = torch.optim.Adam.step

    def watched(optimizer: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    data = load_data("nothing", seed=0)
    example.train("relu", data, options)
    assert rates == [1e-3] * 5 + [0.05] * 2 + [1e-3] * 3
    rates.clear()
    example.train(IN_PEACE, data, options)
    assert rates == [1e-3] * 10


def test_an_accident_needs_a_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.parse(["--accident-rate", "0"])
    assert "`--accident-rate` must be above 0, got 0.0" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"`--logdir` must be a folder that can be written to, got '.*file/logs'"):
        example.main(["--logdir", str(tmp_path / "file" / "logs")])


def test_ctrl_c_says_that_nothing_is_compared(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Trained:
        raise KeyboardInterrupt

    monkeypatch.setattr(example, "train", interrupted)
    with pytest.raises(SystemExit, match="Interrupted: the nets are compared when all five are trained"):
        example.main(["--fast", "--logdir", str(tmp_path), "--data-dir", "nothing"])


@pytest.mark.slow
def test_the_accident_kills_units_of_the_relu_net_alone(
    image_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, Trained] = {}
    train = example.train
    monkeypatch.setattr(example, "train", lambda name, *rest: trained.setdefault(name, train(name, *rest)))
    example.main(["--fast", "--logdir", str(tmp_path), "--data-dir", image_dir])
    assert (tmp_path / "dead_relu.png").stat().st_size > 50_000
    accident = example.parse(["--fast"]).accident

    ill = {
        name: {finding.code for finding in diagnose(net.run) if finding.severity >= Severity.WARNING}
        for name, net in trained.items()
    }
    assert ill == {name: {"dead_relu"} if name == "relu" else set() for name in NETS}
    (finding,) = diagnose(trained["relu"].run)
    assert finding.first_step >= accident.start
    assert all(".act" in layer for layer in finding.layers)

    peace, killed = trained[IN_PEACE], trained["relu"]
    # He's weights give each ReLU an input that is as often below zero as above it, and a calm training moves little.
    assert 0.35 < peace.rectifiers("zero_fraction").mean() < 0.65
    # The digits have pixels that are the same in nearly all images, so that a few units there fire for none.
    assert peace.rectifiers("dead_fraction")[-1].mean() < 0.2
    dead = killed.rectifiers("dead_fraction").mean(axis=1)
    told = int(np.searchsorted(killed.run.steps, accident.stop)) + 10
    assert dead[killed.run.steps < accident.start].max() < 0.2
    assert dead[told] > 0.3
    # Without a gradient of its own a unit can only be woken by what comes before it in the net.
    assert dead[-1] > 0.8 * dead[told]

    for name, net in trained.items():
        after = int(np.searchsorted(net.steps, accident.stop))
        if name != IN_PEACE:
            # Whatever the activation, the accident costs nearly all that was learned, and most of it is learned again.
            assert net.accuracy[after] < 0.4 < net.accuracy[after - 1] - 0.4
            assert net.accuracy[-1] > 0.5
            assert net.final_loss() < 0.5 * net.run.series("loss")[np.searchsorted(net.run.steps, accident.stop)]
    assert trained["leaky_relu"].flat.max() == 0  # its slope is 0.2 at least
    # A ReLU has no slope from 0 on down, an ELU less than FLAT from -5.3 on: fewer units are as far below zero.
    assert trained["elu"].flat[-1].mean() < killed.flat[-1].mean() - 0.1
