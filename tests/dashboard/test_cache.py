import threading
import time

import numpy as np
import pytest

from gradscope.dashboard.cache import Judged, Key, RunCache
from gradscope.records import Run
from tests.hand_written_runs import COLUMNS, run_of, sick_run, sound_run


def run(name: str, kilobytes: int = 1) -> Run:
    return run_of(name, sound_run().layers[:1], {"grad_norm": np.ones((kilobytes * 250, 1))}, records=kilobytes * 250)


def key(name: str) -> Key:
    return Key("", name)


def test_each_version_is_loaded_once() -> None:
    cache, loaded = RunCache(), []

    def load(version: str) -> Judged:
        return cache.get_or_load(key("a"), version, lambda: loaded.append(version) or run(version))  # type: ignore[func-returns-value]

    assert load("1") is load("1")
    assert load("2").run.name == "2"
    assert cache.get(key("a"), "1") is None, "an old version is of no use to anybody"
    assert cache.get(key("a"), "2") is load("2")
    assert loaded == ["1", "2"]


def test_experiments_are_told_apart() -> None:
    cache = RunCache()
    cache.get_or_load(Key("x", "a"), "1", lambda: run("a"))
    assert cache.get(Key("y", "a"), "1") is None


def test_the_run_asked_for_longest_ago_goes_first() -> None:
    cache = RunCache(limit=2500)
    for name in "ab":
        cache.get_or_load(key(name), "1", lambda name=name: run(name))  # type: ignore[misc]
    cache.get(key("a"), "1")
    cache.get_or_load(key("c"), "1", lambda: run("c"))
    assert [name for name in "abc" if cache.get(key(name), "1")] == ["a", "c"]


def test_a_run_beyond_the_limit_is_kept_alone() -> None:
    cache = RunCache(limit=2500)
    cache.get_or_load(key("small"), "1", lambda: run("small"))
    cache.get_or_load(key("large"), "1", lambda: run("large", 10))
    assert cache.get(key("small"), "1") is None
    assert cache.get(key("large"), "1") is not None


def test_many_at_once_load_it_once() -> None:
    cache, loaded = RunCache(), list[str]()

    def load() -> Run:
        time.sleep(0.1)
        loaded.append("a")
        return run("a")

    threads = [threading.Thread(target=lambda: cache.get_or_load(key("a"), "1", load)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1


def test_one_that_is_there_does_not_wait_for_another_to_load() -> None:
    cache, go_on = RunCache(), threading.Event()
    cache.get_or_load(key("a"), "1", lambda: run("a"))
    thread = threading.Thread(target=lambda: cache.get_or_load(key("b"), "1", lambda: go_on.wait(5) and run("b")))  # type: ignore[arg-type,return-value]
    thread.start()
    before = time.monotonic()
    cache.get_or_load(key("a"), "1", lambda: run("again"))
    assert time.monotonic() - before < 2
    go_on.set()
    thread.join()


def test_a_run_that_cannot_be_loaded_blocks_nobody() -> None:
    cache = RunCache()

    def fail() -> Run:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get_or_load(key("a"), "1", fail)
    assert cache.get_or_load(key("a"), "1", lambda: run("a")).run.name == "a"


def test_findings_are_those_of_the_rules_and_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Judged(sick_run())
    findings = judged.findings
    assert {f.code for f in findings} >= {"vanishing_gradient"}
    monkeypatch.setattr("gradscope.dashboard.cache.diagnose", None)
    assert judged.findings is findings
    assert judged.size == len(COLUMNS) * 57 * 12 * 4
