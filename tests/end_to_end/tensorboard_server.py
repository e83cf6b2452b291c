"""A real TensorBoard on this machine, for as long as a test needs it."""

import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def tensorboard(logdir: Path, load_fast: str = "auto", *, port: int | None = None, every: int = 5) -> Iterator[str]:
    """Serve `logdir` on a free port of 127.0.0.1 or on `port`; gives the address, and stops the server at the end.

    It looks for new data `every` so many seconds.
    """
    port = port or _free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--load_fast", load_fast, "--reload_interval", str(every)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_until(done: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the server has read what was written: it lags by seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.2)
    raise AssertionError(f"not there within {seconds} s")


def listed_runs(address: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what the tab's server says of each run, by name."""
    with urllib.request.urlopen(f"{address}/data/plugin/gradscope/runs", timeout=20) as answer:
        return {run["name"]: run for run in json.load(answer)["runs"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("TensorBoard did not answer within 60 s")
