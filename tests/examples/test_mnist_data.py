import contextlib
import hashlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn
from urllib.error import URLError

import pytest
import torch
from mnist_data import (
    DOWNLOAD_TIMEOUT,
    MD5,
    CorruptDataError,
    Dataset,
    Examples,
    MNISTDataModule,
    TensorBatches,
    download_mnist,
    load_dataset,
    load_mnist,
    load_sklearn_digits,
    resolve_data_dir,
)
from torchvision.datasets import MNIST


def numbered(count: int) -> Examples:
    """Examples whose label is their index, and whose pixels are all equal to it."""
    labels = torch.arange(count)
    return Examples(labels.float().reshape(-1, 1, 1, 1).expand(count, 1, 2, 2), labels)


def order(batches: TensorBatches) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (0, 4, []), (3, 1, [1, 1, 1])],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_hold_every_example_once(count: int, batch_size: int, sizes: list[int], shuffle: bool) -> None:
    batches = TensorBatches(numbered(count), batch_size, shuffle=shuffle)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)
    assert sorted(order(batches)) == list(range(count))


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_image_keeps_its_label(shuffle: bool) -> None:
    for images, labels in TensorBatches(numbered(100), 7, shuffle=shuffle):
        assert images.shape == (len(labels), 1, 2, 2)
        assert torch.equal(images, labels.float().reshape(-1, 1, 1, 1).expand_as(images))


def test_unshuffled_order_is_that_of_the_examples() -> None:
    batches = TensorBatches(numbered(100), 7)
    assert order(batches) == order(batches) == list(range(100))


def test_every_epoch_has_its_own_order() -> None:
    batches = TensorBatches(numbered(100), 7, shuffle=True)
    first, second, third = (order(batches) for _ in range(3))
    assert len({tuple(first), tuple(second), tuple(third), tuple(range(100))}) == 4


def test_the_seed_decides_the_orders() -> None:
    one, same, other = (TensorBatches(numbered(100), 7, shuffle=True, seed=seed) for seed in (1, 1, 2))
    orders = [order(one), order(one)]
    assert [order(same), order(same)] == orders
    assert order(other) != orders[0]


def test_the_global_random_state_is_untouched_and_unused() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = order(TensorBatches(numbered(100), 7, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert order(TensorBatches(numbered(100), 7, shuffle=True)) == first


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"`batch_size` must be at least 1, got 0"):
        TensorBatches(numbered(3), 0)


def test_data_dir_is_argument_then_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", "/from/environment")
    assert MNISTDataModule("/given").data_dir == Path("/given")
    assert resolve_data_dir(Path("/given")) == Path("/given")
    assert MNISTDataModule().data_dir == Path("/from/environment")
    monkeypatch.delenv("GRADSCOPE_DATA")
    assert MNISTDataModule().data_dir == Path("data")


def check_shapes_and_statistics(dataset: Dataset, sizes: tuple[int, int, int]) -> None:
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(len(split.labels) for split in splits) == sizes
    for images, labels in splits:
        assert images.shape == (len(labels), 1, 28, 28)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert set(labels.tolist()) == set(range(10))
        assert images.mean().item() == pytest.approx(0, abs=0.05)
        assert images.std().item() == pytest.approx(1, abs=0.05)
    assert dataset.train.images.mean().item() == pytest.approx(0, abs=1e-3)
    assert dataset.train.images.std().item() == pytest.approx(1, abs=1e-3)


def test_sklearn_digits_look_like_mnist() -> None:
    check_shapes_and_statistics(load_sklearn_digits(), (1397, 200, 200))


def test_sklearn_digits_are_split_without_overlap() -> None:
    digits = load_sklearn_digits()
    images = torch.cat([digits.train.images, digits.validation.images, digits.test.images])
    assert len({image.numpy().tobytes() for image in images}) == 1797


def test_sklearn_digits_keep_their_labels() -> None:
    digits = load_sklearn_digits()
    centres = torch.stack([digits.train.images[digits.train.labels == label].mean(0).flatten() for label in range(10)])
    nearest = torch.cdist(digits.test.images.flatten(1), centres).argmin(1)
    assert (nearest == digits.test.labels).float().mean().item() > 0.8


def test_real_mnist(mnist_dir: Path) -> None:
    mnist = load_mnist(mnist_dir)
    check_shapes_and_statistics(mnist, (55_000, 5_000, 10_000))
    assert mnist.name == "MNIST"
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def no_network(mnist: MNIST) -> NoReturn:
    print("Failed to download (trying next):")
    print("100%|", file=sys.stderr)
    raise URLError("no route to host")


def test_without_mnist_one_line_announces_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MNIST, "download", no_network)
    data = MNISTDataModule(tmp_path)
    for stage in ("fit", "test"):
        data.prepare_data()
        data.setup(stage)
    out, err = capfd.readouterr()
    assert out == (
        f"MNIST is not in {tmp_path} and could not be downloaded: using scikit-learn's 1,797 digits instead.\n"
    )
    assert err == ""
    check_shapes_and_statistics(data.dataset, (1397, 200, 200))


@pytest.mark.parametrize("error", [RuntimeError, TimeoutError, PermissionError, URLError])
def test_a_failed_download_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(mnist: MNIST) -> NoReturn:
        raise error("no")

    monkeypatch.setattr(MNIST, "download", fail)
    assert not download_mnist(tmp_path)


def test_an_interrupted_download_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(mnist: MNIST) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(MNIST, "download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download_mnist(tmp_path)
    assert socket.getdefaulttimeout() is None


def test_a_download_gives_up_on_a_silent_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float | None] = []

    def fail(mnist: MNIST) -> NoReturn:
        timeouts.append(socket.getdefaulttimeout())
        raise URLError("timed out")

    monkeypatch.setattr(MNIST, "download", fail)
    download_mnist(tmp_path)
    assert timeouts == [DOWNLOAD_TIMEOUT]
    assert socket.getdefaulttimeout() is None


def test_an_unusable_folder_gives_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert not download_mnist(Path("/proc/nowhere"))
    assert load_dataset(Path("/proc/nowhere")).name == "scikit-learn's 1,797 digits"
    assert capsys.readouterr().out.count("\n") == 1


def part_of_mnist(mnist_dir: Path, tmp_path: Path, *names: str) -> Path:
    """The folder of a data directory that holds just these files."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in names:
        (raw / name).write_bytes((mnist_dir / "MNIST" / "raw" / name).read_bytes())
    return raw


def test_a_half_downloaded_mnist_names_what_is_missing(
    mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MNIST, "download", no_network)
    part_of_mnist(mnist_dir, tmp_path, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    assert not download_mnist(tmp_path)
    assert load_dataset(tmp_path).name == "scikit-learn's 1,797 digits"
    assert capsys.readouterr().out == (
        f"MNIST is not in {tmp_path} (train-images-idx3-ubyte, train-labels-idx1-ubyte missing) and could not be "
        "downloaded: using scikit-learn's 1,797 digits instead.\n"
    )


@pytest.mark.parametrize("damage", [lambda content: content[:5_000], lambda content: content[:-1] + b"x"])
def test_a_corrupt_file_is_named_with_its_checksum(
    mnist_dir: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    raw = part_of_mnist(mnist_dir, tmp_path, *MD5)
    assert load_dataset(tmp_path).name == "MNIST"
    labels = raw / "t10k-labels-idx1-ubyte"
    labels.write_bytes(damage(labels.read_bytes()))
    found = hashlib.md5(labels.read_bytes()).hexdigest()
    size = f"{labels.stat().st_size:,} bytes"
    with pytest.raises(
        CorruptDataError, match=rf"t10k-labels-idx1-ubyte must have .* {MD5[labels.name]}, got {found} of {size}"
    ):
        load_dataset(tmp_path)
    assert labels.exists()


@pytest.mark.parametrize(("limit", "sizes"), [(None, (1397, 200, 200)), (300, (300, 200, 200)), (7, (7, 7, 7))])
def test_a_limit_takes_the_first_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, sizes: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(MNIST, "download", no_network)
    name, *splits = MNISTDataModule(tmp_path, limit=limit).dataset
    assert name == "scikit-learn's 1,797 digits"
    assert tuple(len(split.labels) for split in splits) == sizes
    assert torch.equal(splits[0].images, load_sklearn_digits().train.images[:limit])


def test_mnist_that_is_there_is_not_downloaded(
    mnist_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect(*_: object) -> NoReturn:
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert download_mnist(mnist_dir)
    assert MNISTDataModule(mnist_dir).dataset.name == "MNIST"
    assert capsys.readouterr().out == ""


@pytest.fixture
def digits_module(tmp_path: Path) -> MNISTDataModule:
    with contextlib.redirect_stdout(None):
        data = MNISTDataModule(tmp_path, batch_size=100, seed=3)
        data.setup("fit")
    return data


def test_only_training_batches_are_shuffled(digits_module: MNISTDataModule) -> None:
    train, validation, test = (
        digits_module.train_dataloader(),
        digits_module.val_dataloader(),
        digits_module.test_dataloader(),
    )
    assert [len(train), len(validation), len(test)] == [14, 2, 2]
    assert order(train) != digits_module.dataset.train.labels.tolist()
    assert order(digits_module.train_dataloader()) == order(
        TensorBatches(digits_module.dataset.train, 100, shuffle=True, seed=3)
    )
    assert order(validation) == digits_module.dataset.validation.labels.tolist()
    assert order(test) == digits_module.dataset.test.labels.tolist()


def test_batches_lie_on_the_device_of_the_trainer(digits_module: MNISTDataModule) -> None:
    assert digits_module.train_dataloader().examples.images.device.type == "cpu"
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    digits_module.trainer = trainer  # type: ignore[assignment]
    for batches in (
        digits_module.train_dataloader(),
        digits_module.val_dataloader(),
        digits_module.test_dataloader(),
    ):
        assert [tensor.device.type for tensor in batches.examples] == ["meta", "meta"]
