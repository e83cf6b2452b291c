import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds the real MNIST."""
    folder = Path(os.environ.get("GRADSCOPE_DATA") or CHECKOUT.parent / "shared" / "data")
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {folder}; name its folder in GRADSCOPE_DATA")
    return folder
