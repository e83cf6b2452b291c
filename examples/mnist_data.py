"""MNIST as tensors on the training device; scikit-learn's digits where MNIST cannot be had."""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import MNIST

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, scaled to [0, 1]."""

VALIDATION_SIZE = 5_000
DIGITS_HELD_OUT = 200
DOWNLOAD_TIMEOUT = 10.0
"""Seconds without an answer after which a mirror is given up."""

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Checksums of the four files of MNIST in `MNIST/raw`, unpacked."""


class CorruptDataError(Exception):
    """A file of MNIST is there, but its content is not MNIST's."""


class Examples(NamedTuple):
    """Images float32[N, 1, 28, 28], standardised, and their labels int64[N]."""

    images: Tensor
    labels: Tensor

    def first(self, count: int | None) -> "Examples":
        """Return the first `count` examples: all, where that is None or there are no more."""
        return Examples(self.images[:count], self.labels[:count])

    def to(self, device: torch.device) -> "Examples":
        """Return the examples on `device`, uncopied where they lie there already."""
        return Examples(self.images.to(device), self.labels.to(device))


class Dataset(NamedTuple):
    """Examples to train on, to validate on and to test on, under the name that a person reads."""

    name: str
    train: Examples
    validation: Examples
    test: Examples


class TensorBatches:
    """Batches of examples that already lie on the training device: no worker, no copy from the host.

    Each iteration gives every example once; the last batch holds what is left over and may be smaller. With
    `shuffle` each iteration has a new order, drawn from a generator of its own: the same `seed` gives the same
    sequence of orders on every device, and torch's global random state is neither read nor changed. No examples
    give no batches.

    Raises:
        ValueError: `batch_size` is less than 1.
    """

    def __init__(self, examples: Examples, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}")
        self.examples = examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.examples.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.examples
        order = self._order().to(labels.device)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield images[batch], labels[batch]

    def _order(self) -> Tensor:
        count = len(self.examples.labels)
        return torch.randperm(count, generator=self._generator) if self.shuffle else torch.arange(count)


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, held as one tensor for each split on the trainer's device (on the CPU without a trainer).

    The first 55,000 of the 60,000 training images are trained on, in the order of the file, the last 5,000 are for
    validation, and the 10,000 of the test set for the test. `data_dir` is the folder that holds `MNIST/raw`: the
    argument, else the environment variable GRADSCOPE_DATA, else `data`. What is not there is downloaded; where
    that fails too, one line says so and scikit-learn's digits take MNIST's place (see `load_sklearn_digits`). With a
    `limit` only so many examples of each split are used, the first ones.

    Raises:
        ValueError: `batch_size` is less than 1 (when the batches are asked for).
        CorruptDataError: a file of MNIST is there, but cut off or another one (when the examples are asked for).
    """

    def __init__(
        self, data_dir: str | Path | None = None, batch_size: int = 128, seed: int = 0, limit: int | None = None
    ) -> None:
        super().__init__()
        self.data_dir = resolve_data_dir(data_dir)
        self.batch_size = batch_size
        self.seed = seed
        self.limit = limit
        self._dataset: Dataset | None = None

    @property
    def dataset(self) -> Dataset:
        """The examples on the CPU, read when first asked for."""
        if self._dataset is None:
            name, *splits = load_dataset(self.data_dir)
            self._dataset = Dataset(name, *(split.first(self.limit) for split in splits))
        return self._dataset

    def prepare_data(self) -> None:
        """Download MNIST where it is missing and can be had."""
        if self._dataset is None:
            download_mnist(self.data_dir)

    def setup(self, stage: str | None = None) -> None:
        """Read the examples, whatever the stage."""
        _ = self.dataset

    def train_dataloader(self) -> TensorBatches:
        """Return the batches to train on, in a new order each epoch."""
        return TensorBatches(self._on_device(self.dataset.train), self.batch_size, shuffle=True, seed=self.seed)

    def val_dataloader(self) -> TensorBatches:
        """Return the batches to validate on, in the order of the file."""
        return TensorBatches(self._on_device(self.dataset.validation), self.batch_size)

    def test_dataloader(self) -> TensorBatches:
        """Return the batches to test on, in the order of the file."""
        return TensorBatches(self._on_device(self.dataset.test), self.batch_size)

    def _on_device(self, examples: Examples) -> Examples:
        return examples if self.trainer is None else examples.to(self.trainer.strategy.root_device)


def resolve_data_dir(data_dir: str | Path | None = None) -> Path:
    """Return `data_dir`, else what GRADSCOPE_DATA names, else `data` in the working directory."""
    return Path(data_dir or os.environ.get("GRADSCOPE_DATA") or "data")


def download_mnist(data_dir: Path) -> bool:
    """Make sure that MNIST lies in `data_dir`, downloading what is missing; return whether it does."""
    try:
        with _silent(), _socket_timeout(DOWNLOAD_TIMEOUT):
            MNIST(str(data_dir), download=True)
    except (RuntimeError, OSError, HTTPException):
        return False
    return True


def load_dataset(data_dir: Path) -> Dataset:
    """Read MNIST from `data_dir`; where it is not there, print one line and return scikit-learn's digits.

    Raises:
        CorruptDataError: a file is there, but its checksum is not MNIST's: it was cut off, or is another one.
    """
    check_files(data_dir)
    if missing := missing_files(data_dir):
        digits = load_sklearn_digits()
        place = f"{data_dir}{_but_in_part(missing)}"
        print(f"MNIST is not in {place} and could not be downloaded: using {digits.name} instead.")
        return digits
    return load_mnist(data_dir)


def missing_files(data_dir: Path) -> list[str]:
    """Return the names of those of MNIST's four files that are not in `data_dir`."""
    return [name for name in MD5 if not _raw(data_dir, name).is_file()]


def check_files(data_dir: Path) -> None:
    """See that what is there of MNIST in `data_dir` is whole.

    Raises:
        CorruptDataError: it is not.
    """
    for name, expected in MD5.items():
        file = _raw(data_dir, name)
        if file.is_file() and (found := hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()) != expected:
            raise CorruptDataError(
                f"{file} must have the MD5 checksum {expected}, got {found} of {file.stat().st_size:,} bytes: "
                "it was cut off or is not MNIST's; remove it, and it is downloaded anew"
            )


def load_mnist(data_dir: Path) -> Dataset:
    """Read MNIST from `data_dir`, 55,000 + 5,000 + 10,000 examples, without downloading.

    Raises:
        RuntimeError: the files are not there.
    """
    train, test = (_standardised(MNIST(str(data_dir), train=train)) for train in (True, False))
    return Dataset(
        "MNIST",
        Examples(train.images[:-VALIDATION_SIZE], train.labels[:-VALIDATION_SIZE]),
        Examples(train.images[-VALIDATION_SIZE:], train.labels[-VALIDATION_SIZE:]),
        test,
    )


def load_sklearn_digits() -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits as 1,397 + 200 + 200 examples of MNIST's shape.

    The 8×8 images are enlarged bilinearly to 28×28 and standardised with the mean and standard deviation of the
    training examples. The order is a fixed shuffle, since the original one goes from writer to writer.
    """
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(digits.images).float()[order].unsqueeze(1)
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.target).long()[order]
    sizes = [len(labels) - 2 * DIGITS_HELD_OUT, DIGITS_HELD_OUT, DIGITS_HELD_OUT]
    std, mean = torch.std_mean(images[: sizes[0]])
    train, validation, test = map(Examples, torch.split((images - mean) / std, sizes), torch.split(labels, sizes))
    return Dataset("scikit-learn's 1,797 digits", train, validation, test)


def _standardised(mnist: MNIST) -> Examples:
    images = mnist.data.unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)
    return Examples(images, mnist.targets.long())


def _raw(data_dir: Path, name: str) -> Path:
    return data_dir / "MNIST" / "raw" / name


def _but_in_part(missing: list[str]) -> str:
    return "" if len(missing) == len(MD5) else f" ({', '.join(missing)} missing)"


@contextmanager
def _silent() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torchvision passes no timeout of its own: behind a firewall that drops packets it would wait for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
