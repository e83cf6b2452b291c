from pathlib import Path

import dead_relu
import pytest
from experiment import load_data, quiet_lightning
from torchvision.datasets import MNIST

from gradscope import diagnose


def no_download(dataset: MNIST) -> None:
    raise RuntimeError("no network")


@pytest.mark.slow
@pytest.mark.parametrize("data", ["MNIST", "digits"])
def test_sparse_is_sound_and_the_dead_stay_dead(
    data: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST, "download", no_download)
    quiet_lightning()
    options = dead_relu.command_line("", "").parse_args(["--fast", "--logdir", str(tmp_path)])
    options.steps = dead_relu.FAST_STEPS
    folder = str(request.getfixturevalue("mnist_dir")) if data == "MNIST" else "nothing"
    images = load_data(folder, limit=dead_relu.FAST_EXAMPLES)
    trained = {name: dead_relu.train(name, images, options) for name in dead_relu.NETS}
    sound, killed = trained["relu, no accident"], trained["relu"]
    # Sparse: a good part of all outputs is zero, and hardly a unit is zero for all images.
    assert dead_relu.over_layers(sound.run, "zero_fraction")[-1] > 0.2
    assert dead_relu.over_layers(sound.run, "dead_fraction")[-1] < 0.2
    dead = dead_relu.over_layers(killed.run, "dead_fraction")
    before = dead[killed.run.steps < options.steps // 2]
    after = dead[killed.run.steps > options.steps // 2 + 5 * dead_relu.ACCIDENT_STEPS]
    assert before.max() < 0.2
    assert after.min() > 0.25
    assert after[-1] > after.max() - 0.1  # they do not come back
    # Brute force over the images of the test agrees with the window over batches, which are others.
    assert killed.silent == pytest.approx(float(dead[-1]), abs=0.15)
    codes = {name: {f.code for f in diagnose(net.run)} for name, net in trained.items()}
    assert {name for name, found in codes.items() if "dead_relu" in found} == {"relu"}
    assert {name for name, net in trained.items() if net.silent > 0.25} == {"relu"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="`--logdir` must be a folder that can be written to"):
        dead_relu.main(["--logdir", str(tmp_path / "file" / "logs")])
