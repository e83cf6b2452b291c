from pathlib import Path
from typing import Any

import numpy as np
import pytest
import self_normalizing as example
import torch
from experiment import load_data
from mlp import MLP
from self_normalizing import BATCH_NORM, DEFAULT, DEPTHS, LECUN, VARIANTS, WIDTH, SelfNormalizing, Trained
from torch import nn

from gradscope import Layer, Severity, diagnose
from tests.hand_written_runs import run_of


def modules(variant: str, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in SelfNormalizing(4, variant).modules() if isinstance(module, kind)]


def test_each_variant_has_its_own_regulariser() -> None:
    counts = {
        variant: [len(modules(variant, kind)) for kind in (nn.AlphaDropout, nn.Dropout, nn.BatchNorm1d)]
        for variant in VARIANTS
    }
    assert counts == {LECUN: [4, 0, 0], DEFAULT: [0, 4, 0], BATCH_NORM: [0, 0, 4]}


# LeCun-normal weights have variance 1 / fan_in, those of PyTorch lie evenly within ± 1 / √fan_in, so a third of it.
@pytest.mark.parametrize(("variant", "tau"), [(LECUN, 1), (DEFAULT, 1 / 3), (BATCH_NORM, 1 / 3)])
def test_the_weights_of_each_variant(variant: str, tau: float) -> None:
    for layer in modules(variant, nn.Linear)[1:4]:
        # 128² weights: the standard error of their variance is about 1 % of it.
        weight = layer.get_parameter("weight")
        assert WIDTH * weight.var().item() == pytest.approx(tau, rel=0.05)


SELUS = [Layer(f"act{i}", "SELU", "self_normalizing") for i in range(1, 4)]


def hand_written(mean: object, variance: object) -> Trained:
    layers = [Layer("linear1", "Linear", "linear"), *SELUS]
    metrics = {"act_mean": np.full((40, 4), np.nan), "act_var": np.full((40, 4), np.nan)}
    metrics["act_mean"][:, 1:], metrics["act_var"][:, 1:] = mean, variance
    return Trained(3, LECUN, run_of("lecun_3", layers, metrics), [1.0] * 3, 3)


def test_a_layer_is_inside_when_both_its_moments_are() -> None:
    assert hand_written([0.0, -0.1, 0.09], [1.0, 0.81, 1.49]).inside() == [3, 3, 3]
    assert hand_written([0.0, -0.11, 0.11], 1.0).inside() == [1, 1, 1]
    assert hand_written(0.0, [0.79, 1.51, 1.0]).inside() == [1, 1, 1]
    assert hand_written([0.2, 0.0, 0.0], [1.0, 2.0, 1.0]).inside() == [1, 1, 1]


def test_layers_are_counted_before_training_after_50_steps_and_at_last() -> None:
    variance = np.ones((40, 3))  # a record every 10 steps
    variance[0, :1], variance[5, :2], variance[-5:] = 2, 2, 2
    variance[-1] = 1  # a single batch does not decide
    assert hand_written(0.0, variance).inside() == [2, 1, 0]


def test_the_moments_are_those_of_the_whole_first_batch(tmp_path: Path, no_network: None) -> None:
    options = example.parse(["--logdir", str(tmp_path)])
    options.steps = 1
    run = example.train(8, BATCH_NORM, load_data("nothing", seed=0), options).run
    selus = run.rows("self_normalizing")
    torch.manual_seed(0)
    values, _ = next(iter(load_data("nothing", seed=0).train_dataloader()))
    expected = []
    for module in SelfNormalizing(8, BATCH_NORM).network.children():  # no dropout: nothing of it is random
        values = module(values)
        if isinstance(module, nn.SELU):
            expected.append((values.mean().item(), values.var(correction=0).item()))
    means, variances = zip(*expected, strict=True)
    assert run.metric("act_mean")[0, selus] == pytest.approx(means, abs=1e-5)
    assert run.metric("act_var")[0, selus] == pytest.approx(variances, rel=1e-4)


def test_shuffling_undoes_what_fits_the_weights_to_their_inputs() -> None:
    image = torch.randn(784)
    image -= image.mean()  # what is left of ω in any order
    network = MLP("selu", [2_000])
    linear = network.get_submodule("linear1")
    linear.get_parameter("weight").data = 2 * (image / image.norm()).expand(2_000, 784).clone()  # τ = 4 for each unit
    nn.init.zeros_(linear.get_parameter("bias"))
    weight = linear.get_parameter("weight").clone()
    assert nn.functional.selu(linear(image)).mean() > 40
    (mean,), (variance,) = example.when_shuffled(network, image.reshape(1, 1, 28, 28))
    # Each of 2,000 units is then given N(0, 4): the standard error of the mean is 0.04, of the variance about 5 %.
    expected = nn.functional.selu(2 * torch.randn(100_000))
    assert mean == pytest.approx(expected.mean().item(), abs=0.15)
    assert variance == pytest.approx(expected.var().item(), rel=0.2)
    assert torch.equal(linear.get_parameter("weight"), weight)


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
    with pytest.raises(SystemExit, match="Interrupted: the nets are compared when all nine are trained"):
        example.main(["--fast", "--logdir", str(tmp_path), "--data-dir", "nothing"])


@pytest.mark.slow
def test_only_the_recipe_and_batch_norm_keep_the_moments(
    image_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Trained] = []
    train_all = example.train_all

    def kept(*given: Any) -> list[Trained]:
        trained.extend(train_all(*given))
        return trained

    monkeypatch.setattr(example, "train_all", kept)
    example.main(["--fast", "--logdir", str(tmp_path), "--data-dir", image_dir])
    assert (tmp_path / "self_normalizing.png").stat().st_size > 50_000
    assert [(net.depth, net.variant) for net in trained] == [(depth, v) for depth in DEPTHS for v in VARIANTS]
    for net in trained:
        findings = {finding.code: finding.severity for finding in diagnose(net.run)}
        before, after, last = net.inside()
        if net.variant == DEFAULT:
            # τ = 1/3 leaves 0.42 of the variance after one layer, and 0.2 after two: far below the bound of 0.8.
            assert (before, after, last) == (0, 0, 0)
            assert net.moments("act_var")[0, -1] < 0.1
            assert findings["selu_misconfigured"] == findings["selu_drift"] == Severity.WARNING
        elif net.variant == BATCH_NORM:
            # Standardised inputs are what SELU turns into mean 0 and variance 1, whatever the weights.
            assert before == after == net.depth
            assert findings == {"selu_misconfigured": Severity.INFO}
        else:
            # One draw of 128 units a layer may carry a layer over the bounds, not most of them.
            assert before >= 0.75 * net.depth
            assert net.inside_shuffled >= 0.75 * net.depth
            # A step changes a weight matrix by a thousandth of it, so that 80 of them cannot change the squares much.
            assert 0.95 < min(net.tau) <= max(net.tau) < 1.1
            assert {code for code, severity in findings.items() if severity >= Severity.WARNING} == set()
    losses = {(net.depth, net.variant): net.loss() for net in trained}
    # Of what tells the images apart nothing is left behind sixteen such layers, so that nothing is learned.
    assert losses[16, DEFAULT][1] > 0.95 * losses[16, DEFAULT][0]
    for variant in (LECUN, BATCH_NORM):
        assert losses[16, variant][1] < 0.85 * losses[16, variant][0]
