"""What every test stands on."""

import logging
import os

import pytest
import torch

os.environ.setdefault("COLUMNS", "120")


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> None:
    """Every test starts from the same seed, and Lightning's advertisements stay out of the output."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(0)
