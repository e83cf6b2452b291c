import json
import re
import signal
from pathlib import Path

import compare_activations
import numpy as np
import pytest
import pytorch_lightning as pl
from activation_cnn import ACTIVATIONS, MNISTClassifier
from compare_activations import Result, curves, dead_units, gradient_range, selu_bounds, spread
from matplotlib.figure import Figure

from gradscope import Layer, diagnose, load
from tests.hand_written_runs import run_of

SETTINGS = {"epochs": 3, "seed": 0, "data": "MNIST", "examples": 1024}


def result(activation: str, losses: list[float], seed: int = 0) -> Result:
    return Result(activation, {**SETTINGS, "seed": seed}, losses, losses, 0.98, 1.0, "cpu")


def test_an_unknown_activation_lists_the_six(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare_activations.parse(["--activations", "relu", "swish"])
    message = capsys.readouterr().err
    assert "swish" in message
    assert [name for name in ACTIVATIONS if name not in message] == []


@pytest.mark.parametrize("option", ["epochs", "seeds"])
def test_a_count_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare_activations.parse([f"--{option}", "0"])
    assert f"`--{option}` must be at least 1, got 0" in capsys.readouterr().err


def test_ten_epochs_of_all_six_by_default() -> None:
    options = compare_activations.parse([])
    assert (options.epochs, options.seeds, options.activations) == (10, 1, list(ACTIVATIONS))
    assert list(compare_activations.runs_of(options)) == [(0, name) for name in ACTIVATIONS]


def test_every_activation_comes_before_the_next_seed() -> None:
    options = compare_activations.parse(["--activations", "relu", "elu", "--seeds", "2", "--seed", "5"])
    assert list(compare_activations.runs_of(options)) == [(5, "relu"), (5, "elu"), (6, "relu"), (6, "elu")]


def test_the_spread_is_the_standard_deviation_over_seeds() -> None:
    assert spread([98.0]) == "98.00 %"
    assert spread([98.0, 99.0, 97.0]) == "98.00 ± 1.00 %"


def test_a_curve_is_the_mean_over_seeds_within_a_band() -> None:
    axes = Figure().subplots()
    curves(
        axes, [result("relu", [1.0, 0.5]), result("relu", [2.0, 1.5], seed=1), result("gelu", [3.0, 3.0])], "val_loss"
    )
    relu, gelu = axes.lines
    assert (relu.get_label(), gelu.get_label()) == ("relu", "gelu")
    assert np.asarray(relu.get_xydata()).tolist() == [[1, 1.5], [2, 1.0]]
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 2.0)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, no_network: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"`--logdir` must be a folder that can be written to, got '.*file/logs'"):
        compare_activations.main(["--logdir", str(tmp_path / "file" / "logs")])


def test_a_corrupt_file_of_mnist_ends_it_with_its_checksum(tmp_path: Path, no_network: None) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"cut off")
    with pytest.raises(SystemExit, match="train-labels-idx1-ubyte must have the MD5 checksum a25bea736e30d166"):
        compare_activations.main(["--logdir", str(tmp_path / "logs"), "--data-dir", str(tmp_path)])


WEIGHTS = (Layer("conv1", "Conv2d", "convolution"), Layer("dense", "Linear", "linear"))


def test_the_gradient_range_goes_by_weight_layers_first_and_last() -> None:
    norms = np.linspace([1.0, 100.0, 5000.0], [1.0, 2.0, 5000.0], 40)
    norms[:10], norms[-10:] = [1.0, 100.0, 5000.0], [1.0, 2.0, 5000.0]
    run = run_of("relu", [*WEIGHTS, Layer("act1", "PReLU", "rectifier")], {"grad_norm": norms})
    assert gradient_range(run) == "×100 → ×2"
    assert gradient_range(run_of("relu", WEIGHTS, {"grad_norm": [0.0, 1.0]})) == "×inf → ×inf"


def test_dead_units_are_those_of_the_worst_layer_at_the_end() -> None:
    layers = (*WEIGHTS, Layer("act1", "ReLU", "rectifier"), Layer("act2", "ReLU", "rectifier"))
    fractions = np.full((40, 4), np.nan)
    fractions[:, 2:], fractions[-1, 2:] = 0.9, [0.25, 0.1]
    assert dead_units(run_of("relu", layers, {"dead_fraction": fractions})) == "25%"
    assert dead_units(run_of("gelu", layers, {})) == "–"


def test_selu_layers_inside_both_bounds_are_counted() -> None:
    layers = tuple(Layer(f"act{i}", "SELU", "self_normalizing") for i in (1, 2, 3))
    mean, variance = np.zeros((40, 3)), np.ones((40, 3))
    mean[-1], variance[-1] = [0.1, 0.11, 0.0], [1.5, 1.0, 0.79]
    assert selu_bounds(run_of("selu", layers, {"act_mean": mean, "act_var": variance})) == "3 → 1 of 3"
    assert selu_bounds(run_of("relu", WEIGHTS, {})) == "–"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a run."""
    monkeypatch.setattr(compare_activations, "FAST_EPOCHS", 1)
    monkeypatch.setattr(compare_activations, "FAST_EXAMPLES", 160)


def compare(logdir: Path, *arguments: str) -> None:
    compare_activations.main(["--fast", "--data-dir", "nothing", "--logdir", str(logdir), *arguments])


def test_ctrl_c_shows_what_is_finished_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_network: None, tiny: None
) -> None:
    def press_ctrl_c(callback: pl.Callback, trainer: pl.Trainer, module: MNISTClassifier, *_: object) -> None:
        if module.hparams["activation"] == "elu":
            signal.raise_signal(signal.SIGINT)

    names = ["--activations", "relu", "elu"]
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(compare_activations.Steps, "on_train_batch_end", press_ctrl_c)
        compare(tmp_path, *names)
    assert signal.getsignal(signal.SIGINT) is handler
    out = capsys.readouterr().out
    assert "Interrupted" in out
    assert re.search(r"│ relu +│", out)
    assert not re.search(r"│ elu +│", out)
    assert (tmp_path / "compare_activations.png").stat().st_size > 10_000
    first = (tmp_path / "relu" / "seed_0" / "result.json").stat().st_mtime_ns
    cut_off = list((tmp_path / "elu" / "seed_0").glob("events.out.tfevents.*"))
    assert cut_off

    compare(tmp_path, *names)
    out = capsys.readouterr().out
    assert "Interrupted" not in out
    assert re.search(r"│ elu +│", out)
    assert (tmp_path / "relu" / "seed_0" / "result.json").stat().st_mtime_ns == first
    assert not any(file.exists() for file in cut_off)


def test_ctrl_c_before_the_first_is_finished_ends_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, tiny: None
) -> None:
    monkeypatch.setattr(compare_activations.Steps, "on_train_batch_end", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit, match="no run is finished yet"):
        compare(tmp_path)


def test_other_settings_are_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, tiny: None
) -> None:
    compare(tmp_path, "--activations", "relu")
    file = tmp_path / "relu" / "seed_0" / "result.json"
    assert json.loads(file.read_text())["settings"]["examples"] == 160
    monkeypatch.setattr(compare_activations, "FAST_EXAMPLES", 130)
    compare(tmp_path, "--activations", "relu")
    assert json.loads(file.read_text())["settings"]["examples"] == 130
    (run,) = load(tmp_path).values()
    assert run.steps.tolist() == [0, 1]


def test_a_run_whose_log_is_gone_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, tiny: None
) -> None:
    compare(tmp_path, "--activations", "relu")
    with monkeypatch.context() as patch:  # other settings, cut off: the log of the first run is removed by then
        patch.setattr(compare_activations, "FAST_EXAMPLES", 130)
        patch.setattr(compare_activations.Steps, "on_train_batch_end", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(SystemExit, match="no run is finished yet"):
            compare(tmp_path, "--activations", "relu")
    assert not (tmp_path / "relu" / "seed_0" / "result.json").exists()
    compare(tmp_path, "--activations", "relu")
    (run,) = load(tmp_path).values()
    assert run.steps.tolist() == [0, 1]


def test_ctrl_c_while_a_net_is_tested_is_caught_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, tiny: None
) -> None:
    monkeypatch.setattr(MNISTClassifier, "test_step", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit, match="no run is finished yet"):
        compare(tmp_path, "--activations", "relu")


@pytest.mark.slow
def test_only_sigmoid_does_not_learn(image_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare_activations.main(["--fast", "--logdir", str(tmp_path), "--data-dir", image_dir])
    results = {name: json.loads((tmp_path / name / "seed_0" / "result.json").read_text()) for name in ACTIVATIONS}
    # 24 steps are enough for what a gradient reaches. Chance is 10 %; a sigmoid passes on at most a quarter of it.
    assert {name for name, result in results.items() if result["test_accuracy"] < 0.6} == {"sigmoid"}
    runs = load(tmp_path)
    codes = {name: {f.code for f in diagnose(runs[f"{name}/seed_0"]) if f.severity > 1} for name in ACTIVATIONS}
    assert codes == {name: {"vanishing_gradient"} if name == "sigmoid" else set() for name in ACTIVATIONS}
    ranges = {name: float(gradient_range(runs[f"{name}/seed_0"]).split("→ ×")[1]) for name in ACTIVATIONS}
    assert {name for name, times in ranges.items() if times > 100} == {"sigmoid"}
    out = capsys.readouterr().out
    assert [name for name in ACTIVATIONS if not re.search(rf"│ {name} +│", out)] == []
    assert (tmp_path / "compare_activations.png").stat().st_size > 10_000
