"""What every test stands on."""

import logging
import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("COLUMNS", "120")


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> None:
    """Every test starts from the same seed, and Lightning's advertisements stay out of the output."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds the real MNIST."""
    folder = Path(os.environ.get("GRADSCOPE_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {folder}; name its folder in GRADSCOPE_DATA")
    return folder
