"""Small deterministic training sets: a slice of MNIST, and synthetic tasks."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

Loader = DataLoader[Any]

POSITIONS_FILE = Path(__file__).parent / "mnist_5k_index.npy"
"""Positions of the 5,120 images of the zoo among the 10,000 of MNIST's test set: uint16[5120]."""


class MissingImagesError(RuntimeError):
    """A case needs images of MNIST, and they cannot be had; the message says why and what to do."""


def mnist_root() -> Path:
    """Return the folder that holds `MNIST/raw`: what GRADSCOPE_DATA names, else `data` in the working directory."""
    return Path(os.environ.get("GRADSCOPE_DATA") or "data")


@lru_cache(maxsize=1)
def mnist_slice(root: Path) -> tuple[Tensor, Tensor]:
    """Return the images uint8[5120, 28, 28] and the labels int64[5120] that the zoo is made of.

    Raises:
        MissingImagesError: MNIST is not in `root`, or torchvision, which reads it, is not installed.
    """
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise MissingImagesError("reading MNIST needs torchvision; `pip install torchvision` brings it") from error
    try:
        test_set = MNIST(str(root), train=False)
    except RuntimeError as error:
        raise MissingImagesError(
            f"MNIST is not in {root}; name its folder in GRADSCOPE_DATA, or let `make demo` download it to ./data"
        ) from error
    positions = torch.from_numpy(np.load(POSITIONS_FILE).astype(np.int64))
    return test_set.data[positions], test_set.targets[positions].long()


def mnist_tensors(n: int = 2048, size: int = 14, scaling: str = "standard", start: int = 0) -> tuple[Tensor, Tensor]:
    """Return images float32[n, 1, size, size] and labels int64[n].

    `scaling` is "standard" (mean 0, standard deviation 1), "unit" (0 to 1) or "raw" (0 to 255).

    Raises:
        MissingImagesError: MNIST cannot be had.
        ValueError: `scaling` is another one.
    """
    images, digits = mnist_slice(mnist_root())
    x, y = images[start : start + n].float().unsqueeze(1), digits[start : start + n]
    if size != 28:
        x = F.adaptive_avg_pool2d(x, size)
    if scaling == "unit":
        x = x / 255.0
    elif scaling == "standard":
        x = (x - x.mean()) / x.std()
    elif scaling != "raw":
        raise ValueError(f"`scaling` must be 'standard', 'unit' or 'raw', got {scaling!r}")
    return x.contiguous(), y.clone()


def mnist(
    n: int = 2048, size: int = 14, scaling: str = "standard", flat: bool = False, start: int = 0
) -> TensorDataset:
    x, y = mnist_tensors(n, size, scaling, start)
    return TensorDataset(x.flatten(1) if flat else x, y)


def mnist_rows(n: int = 2048, size: int = 28) -> TensorDataset:
    """Return each image as a sequence of its rows: float32[n, size, size]."""
    x, y = mnist_tensors(n, size)
    return TensorDataset(x.squeeze(1), y)


def flat_mnist(seed: int, scaling: str = "standard", n: int = 2048) -> Callable[[], Loader]:
    return lambda: loader(mnist(n, 14, scaling, flat=True), seed=seed)


def mnist_images(seed: int, size: int = 14, n: int = 2048) -> Callable[[], Loader]:
    return lambda: loader(mnist(n, size), seed=seed)


def loader(dataset: Dataset[Any], batch_size: int = 64, seed: int = 0, shuffle: bool = True) -> Loader:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, generator=generator, drop_last=True)


def teacher_regression(n: int, n_in: int, n_out: int = 1, hidden: int = 16, seed: int = 0) -> TensorDataset:
    """Return targets of a random two-layer tanh net, scaled to unit variance."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_in, generator=g)
    w1 = torch.randn(n_in, hidden, generator=g) * 1.5 / n_in**0.5
    w2 = torch.randn(hidden, n_out, generator=g) / hidden**0.5
    y = torch.tanh(x @ w1) @ w2
    return TensorDataset(x, (y - y.mean(0)) / y.std(0))


def teacher_classes(n: int, n_in: int, n_classes: int, hidden: int = 16, seed: int = 0) -> TensorDataset:
    """Return labels from the argmax of a random two-layer tanh net."""
    x, y = teacher_regression(n, n_in, n_classes, hidden, seed).tensors
    return TensorDataset(x, y.argmax(1))


def markov_text(n: int, length: int, vocab: int, seed: int = 0) -> TensorDataset:
    """Return token sequences of a random sparse Markov chain with Zipf-like token frequencies."""
    g = torch.Generator().manual_seed(seed)
    zipf = 1.0 / torch.arange(1, vocab + 1, dtype=torch.float)
    followers = torch.multinomial(zipf.expand(vocab, -1), 3, generator=g)  # three possible next tokens each
    tokens = torch.empty(n, length + 1, dtype=torch.long)
    tokens[:, 0] = torch.multinomial(zipf, n, replacement=True, generator=g)
    for t in range(length):
        choice = torch.randint(0, 3, (n,), generator=g)
        tokens[:, t + 1] = followers[tokens[:, t], choice]
    return TensorDataset(tokens[:, :-1], tokens[:, 1:])


def zipf_bags(n: int, length: int, vocab: int, n_classes: int, seed: int = 0) -> TensorDataset:
    """Return bags of Zipf-distributed words, with the class of the bag hidden in the words' random topics."""
    g = torch.Generator().manual_seed(seed)
    zipf = 1.0 / torch.arange(1, vocab + 1, dtype=torch.float)
    bags = torch.multinomial(zipf.expand(n, -1), length, generator=g)
    topics = torch.randn(vocab, n_classes, generator=g)
    return TensorDataset(bags, topics[bags].mean(1).argmax(1))
