"""What the tests of the examples share: images to train on, and no network."""

import pytest
from torchvision.datasets import MNIST


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the mirrors of MNIST cannot be reached: what is not there cannot be had."""

    def download(dataset: MNIST) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", download)


@pytest.fixture(params=["MNIST", "digits"])
def image_dir(request: pytest.FixtureRequest, no_network: None) -> str:
    """For ``--data-dir``: the folder of the real MNIST, then one without it, so that the digits are used."""
    return str(request.getfixturevalue("mnist_dir")) if request.param == "MNIST" else "nothing"
