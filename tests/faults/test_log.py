"""A log that can no longer be written to: the training ends as it would have, and what was written stays readable."""

import ctypes
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gradscope
from tests.faults.fits import AT, BATCHES, Fault, Happens, event_file, fitted, scope


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights without GradScope, and without any fault."""
    return fitted(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [r.getMessage() for r in caplog.records if r.name == "gradscope"]


def run(*command: str | Path) -> None:
    """Run a command that needs the rights of root; skips the test without them."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"needs the right to `{' '.join(map(str, command))}`: {ended.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 128 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=128k", "none", place)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def no_larger_files() -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def limit(trainer: pl.Trainer) -> None:
    """Let the log grow by a record and a half."""
    _settle(trainer)
    size = event_file(trainer).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + size * 3 // 2 // AT, resource.RLIM_INFINITY))


def no_limit(trainer: object = None) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _settle(trainer: pl.Trainer) -> None:
    assert trainer.logger is not None
    trainer.logger.experiment.flush()  # type: ignore[attr-defined]


def assert_whole(folder: Path, last: int) -> None:
    """Assert that all records up to `last` are there and sound, for us and for TensorBoard, and nothing after them."""
    (loaded,) = gradscope.load(folder).values()
    assert loaded.steps.tolist() == list(range(last + 1))
    assert loaded.notes == ()
    accumulator = EventAccumulator(str(folder)).Reload()
    assert [e.step for e in accumulator.Scalars("gradscope/grad_norm/max")] == list(range(last + 1))


def test_a_file_that_may_not_grow(
    tmp_path: Path, undisturbed: str, said: Callable[[], list[str]], no_larger_files: None
) -> None:
    watching = scope()
    assert fitted(tmp_path, Happens(limit), watching) == undisturbed
    no_limit()
    assert said() == [_no_longer(f"OSError: [Errno {errno.EFBIG}] File too large")]
    assert_whole(tmp_path, AT)
    assert len(watching.run.steps) == BATCHES, "what is known in memory goes on"


def test_a_disk_that_is_full(small_disk: Path, undisturbed: str, said: Callable[[], list[str]]) -> None:
    watching = scope()
    assert fitted(small_disk, watching) == undisturbed
    assert said() == [_no_longer(f"OSError: [Errno {errno.ENOSPC}] No space left on device")]
    assert shutil.disk_usage(small_disk).free < 8192, "the test has a full disk"
    (loaded,) = gradscope.load(small_disk).values()
    assert 10 < len(loaded.steps) < BATCHES
    assert_whole(small_disk, int(loaded.steps[-1]))
    assert len(watching.run.steps) == BATCHES


def test_the_users_curve_goes_on_once_there_is_room_again(
    tmp_path: Path, undisturbed: str, said: Callable[[], list[str]], no_larger_files: None
) -> None:
    class Logs(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if args[2] < AT or args[2] > AT + 5:
                trainer.logger.experiment.add_scalar("users_own", args[2], args[2])

    callbacks = [Happens(limit), scope(), Happens(no_limit, AT + 5), Logs()]
    assert fitted(tmp_path, *callbacks) == undisturbed
    assert len(said()) == 1
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in accumulator.Scalars("users_own")] == [*range(AT), *range(AT + 6, BATCHES)]
    assert_whole(tmp_path, AT)


def test_the_last_words_that_find_no_room_are_told_too(
    tmp_path: Path, undisturbed: str, said: Callable[[], list[str]], no_larger_files: None
) -> None:
    class Limits(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            _settle(trainer)
            resource.setrlimit(resource.RLIMIT_FSIZE, (event_file(trainer).stat().st_size, resource.RLIM_INFINITY))

    assert fitted(tmp_path, Limits(), scope()) == undisturbed
    no_limit()
    assert said() == [_no_longer(f"OSError: [Errno {errno.EFBIG}] File too large")]
    assert_whole(tmp_path, BATCHES - 1)


def delete(trainer: pl.Trainer) -> None:
    _settle(trainer)
    shutil.rmtree(str(trainer.log_dir))


def delete_file(trainer: pl.Trainer) -> None:
    _settle(trainer)
    event_file(trainer).unlink()


def replace_by_a_file(trainer: pl.Trainer) -> None:
    delete(trainer)
    Path(str(trainer.log_dir)).write_text("in the way")


@pytest.mark.parametrize(
    ("fault", "error"),
    [(delete, FileNotFoundError), (delete_file, FileNotFoundError), (replace_by_a_file, NotADirectoryError)],
)
def test_a_log_that_goes(
    fault: Fault, error: type[OSError], tmp_path: Path, undisturbed: str, said: Callable[[], list[str]]
) -> None:
    watching, folder = scope(), tmp_path / "log"
    assert fitted(folder, Happens(fault), watching) == undisturbed
    (line,) = said()
    assert line.startswith(
        f"GradScope: no longer writes to TensorBoardLogger after {error.__name__}: [Errno {_number(error)}]"
    )
    assert len(watching.run.steps) == BATCHES
    assert not list(tmp_path.rglob("*tfevents*")), "nothing comes back in part"


def _number(error: type[OSError]) -> int:
    return {FileNotFoundError: errno.ENOENT, NotADirectoryError: errno.ENOTDIR}[error]


@pytest.mark.parametrize("how", ["mount", "chattr"])
def test_a_log_that_can_only_be_read(how: str, tmp_path: Path, undisturbed: str, said: Callable[[], list[str]]) -> None:
    """For root the modes of a file do not count: the file system has to refuse."""
    folder = tmp_path / "log"
    folder.mkdir()
    if how == "mount":
        run("mount", "--bind", folder, folder)

    def forbid(trainer: pl.Trainer) -> None:
        _settle(trainer)
        if how == "mount":
            run("mount", "-o", "remount,bind,ro", folder)
        else:
            run("chattr", "+i", event_file(trainer))

    watching = scope()
    try:
        assert fitted(folder, Happens(forbid), watching) == undisturbed
        number = errno.EROFS if how == "mount" else errno.EPERM
        (line,) = said()
        assert f"[Errno {number}] {os.strerror(number)}" in line
        assert_whole(folder, AT - 1)
    finally:
        undo: list[str | Path] = ["umount", "--lazy", folder] if how == "mount" else ["chattr", "-R", "-i", folder]
        subprocess.run(undo, check=True)
    assert len(watching.run.steps) == BATCHES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_not_waited_for(
    tmp_path: Path, undisturbed: str, said: Callable[[], list[str]]
) -> None:
    def kill(trainer: Any) -> None:
        thread = trainer.logger.experiment._get_file_writer().event_writer._async_writer._worker
        _settle(trainer)
        ended = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        assert ended == 1
        trainer.logger.experiment.add_scalar("wakes_it", 1.0, AT)
        thread.join(timeout=30)
        assert not thread.is_alive()
        assert thread.exception is None, "TensorBoard knows nothing of it"

    watching = scope()
    assert fitted(tmp_path, Happens(kill), watching) == undisturbed
    assert said() == [_no_longer("WriterGoneError: the thread that writes its file has ended")]
    assert_whole(tmp_path, AT - 1)
    assert len(watching.run.steps) == BATCHES


def _no_longer(error: str) -> str:
    return f"GradScope: no longer writes to TensorBoardLogger after {error}. Everything else goes on."
