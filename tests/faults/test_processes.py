"""Processes that are ended, multiply, or write to one log: whole records stay, and resuming goes on behind them."""

import random
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest

import gradscope
from tests.faults.fits import AT, BATCHES
from tests.faults.processes import ended, fit_and_tell, fit_with_checkpoints, fit_with_workers, started

LENGTH = 400


def records_in(path: Path) -> int:
    """Count whole frames that hold a record, by nothing but their lengths."""
    data, at, records = path.read_bytes(), 0, 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        frame = data[at : at + size + 16]
        records += len(frame) == size + 16 and b"gradscope/globals" in frame
        at += size + 16
    return records


def kill_and_resume(folder: Path, seed: int) -> int:
    """Kill a fit at a random moment, and go on from its last checkpoint; returns how many records it had written."""
    rng = random.Random(seed)
    fit = started(fit_with_checkpoints, folder, LENGTH)
    wanted = rng.randrange(1, 120_000)  # bytes of a log of which a whole one has two millions
    until = time.monotonic() + 60
    while sum(path.stat().st_size for path in folder.glob("*tfevents*")) < wanted and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(rng.random() * 0.02)
    fit.kill()
    assert ended(fit) == -signal.SIGKILL, "the test kills it on its way"
    (first,) = folder.glob("*tfevents*")
    whole = records_in(first)
    assert_steps(folder, list(range(whole)))
    last = folder / "checkpoints" / "last.ckpt"
    until_step = whole + 10
    resumed = started(fit_with_checkpoints, folder, until_step, last if last.exists() else None)
    assert ended(resumed) == 0
    assert_steps(folder, list(range(until_step)))
    return whole


def assert_steps(folder: Path, steps: list[int]) -> None:
    if not steps:
        with pytest.raises(ValueError, match="none of its data"):
            gradscope.load(folder)
        return
    (run,) = gradscope.load(folder).values()
    assert run.steps.tolist() == steps
    assert all("the file ends inside a record" in note for note in run.notes), run.notes
    assert np.isfinite(run.metric("grad_norm")[:, run.rows("linear")]).all()


@pytest.mark.parametrize("seed", range(1))
def test_killed_at_a_random_moment(seed: int, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 101, 20))
def test_killed_at_a_hundred_random_moments(start: int, tmp_path: Path) -> None:
    written = [kill_and_resume(tmp_path / str(seed), seed) for seed in range(start, start + 20)]
    assert len(set(written)) > 5, "moments differ"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_fit_as_without_us_and_loses_nothing(name: str, tmp_path: Path) -> None:
    outcomes, codes = [], []
    for own in (True, False):
        (folder := tmp_path / str(own)).mkdir()
        codes.append(ended(started(fit_and_tell, folder, own, AT, name)))
        outcomes.append((folder / "outcome").read_text())
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].startswith(("SIGTERMException", "SystemExit", "KeyboardInterrupt")), "it has ended the fit"
    assert codes[0] == codes[1]
    (run,) = gradscope.load(tmp_path / "True" / "log").values()
    assert run.steps.tolist()[:AT] == list(range(AT))
    assert len(run.steps) <= AT + 1
    assert run.notes == ()
    assert run.coverage.measured["layers with parameters"] == 3, "the status at the end is there"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_that_load_data(method: str, tmp_path: Path) -> None:
    outcomes = []
    for own in (True, False):
        (folder := tmp_path / str(own)).mkdir()
        assert ended(started(fit_with_workers, folder, own, method)) == 0
        outcomes.append((folder / "outcome").read_text())
    assert outcomes[0] == outcomes[1]
    (run,) = gradscope.load(tmp_path / "True" / "log").values()
    assert run.steps.tolist() == list(range(10))
    assert run.coverage.unseen == {}


def test_two_processes_that_write_to_one_log(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    assert ended(started(fit_and_tell, alone, False)) == 0
    both = []
    for name in ("first", "second"):
        (folder := tmp_path / name).mkdir()
        (folder / "log").symlink_to(tmp_path / "shared")
        (tmp_path / "shared").mkdir(exist_ok=True)
        both.append(started(fit_and_tell, folder, True))
    assert [ended(process) for process in both] == [0, 0]
    weights = {(tmp_path / name / "outcome").read_text() for name in ("alone", "first", "second")}
    assert len(weights) == 1
    files = list((tmp_path / "shared").glob("*tfevents*"))
    assert [records_in(path) for path in files] == [BATCHES, BATCHES], "each has a file of its own"
    for path in files:
        (run,) = gradscope.load(path).values()
        assert run.steps.tolist() == list(range(BATCHES))
        assert run.notes == ()
    (run,) = gradscope.load(tmp_path / "shared").values()
    assert run.steps.tolist() == list(range(BATCHES)), "as one run: each step once"
