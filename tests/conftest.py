"""What every test stands on."""

import gc
import logging
import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

os.environ.setdefault("COLUMNS", "120")


@pytest.fixture(autouse=True, scope="session")
def _quick() -> Iterator[None]:
    """Without what takes longer than to train nets as small as those of the tests."""
    torch.set_num_threads(1)  # several wait for each other
    gc.freeze()  # each fit looks through what the collector knows, which is nearly all of it libraries
    with pytest.MonkeyPatch.context() as patch:
        # Each Trainer looks through all installed packages for callbacks.
        patch.setattr("lightning_fabric.utilities.registry.entry_points", cache(entry_points), raising=False)
        yield


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> Iterator[None]:
    """Every test starts from the same seed and leaves nothing on; Lightning does not advertise in the output."""
    for package in ("pytorch_lightning", "lightning.pytorch"):  # whichever was imported last speaks for both
        logging.getLogger(package).setLevel(logging.ERROR)
    torch.manual_seed(0)
    yield
    assert torch.overrides._get_current_function_mode() is None, "a mode was left on"  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds the real MNIST."""
    folder = Path(os.environ.get("GRADSCOPE_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {folder}; name its folder in GRADSCOPE_DATA")
    return folder
