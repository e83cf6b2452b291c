"""`gradscope watch` in a real pseudo-terminal: a log that grows, a window that changes, and the ways to leave."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from gradscope.events.reading import LogReader
from gradscope.watching import Watch
from tests.dashboard.served import Log, record

LIMIT = 60


class Terminal:
    """A process in a pseudo-terminal, and the screen that somebody would see."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 30) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.master, slave = pty.openpty()
        self.settings = termios.tcgetattr(slave)
        self._slave = slave
        self.resize(columns, lines)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gradscope", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def shows(self, holds: Callable[[str], bool]) -> str:
        """Read until the screen is as wanted, and return its text."""
        deadline = time.monotonic() + LIMIT
        while not holds(self.text):
            assert time.monotonic() < deadline, f"the screen never was as wanted:\n{self.text}"
            self._read()
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def end(self) -> int:
        """Wait for the process to end, and return its status."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it did not end"
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        if not select.select([self.master], [], [], 0.2)[0]:
            return False
        data = os.read(self.master, 65536)
        self.output += data
        self._stream.feed(data)
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=20)
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "logs" / "first" / "events.out.tfevents.1").add(*(record(step) for step in range(6)))


@contextlib.contextmanager
def watching(logdir: Path, *options: str, **size: int) -> Iterator[Terminal]:
    terminal = Terminal("watch", str(logdir), "--interval", "0.2", *options, **size)
    try:
        yield terminal
    finally:
        terminal.close()


def assert_clean(terminal: Terminal) -> None:
    assert terminal.output.count(b"\x1b[?1049h") == terminal.output.count(b"\x1b[?1049l") == 1, "the alternate screen"
    assert terminal.output.rfind(b"\x1b[?25h") > terminal.output.rfind(b"\x1b[?25l"), "the cursor"
    assert termios.tcgetattr(terminal._slave) == terminal.settings
    assert b"Traceback" not in terminal.output


@pytest.mark.slow
def test_it_follows_a_log_and_new_runs_and_quits_on_q(log: Log, tmp_path: Path) -> None:
    with watching(tmp_path / "logs") as terminal:
        text = terminal.shows(lambda text: "6 records" in text)
        assert "first" in text
        assert "gradient norm (log10), from input to loss" in text
        log.add(record(6), record(7))
        terminal.shows(lambda text: "8 records" in text)
        Log(tmp_path / "logs" / "second" / "events.out.tfevents.1").add(
            *(record(s, at=5000, act_mean=[0.0, 0.1, 0.2]) for s in range(5))
        )
        terminal.shows(lambda text: "second" in text and "5 records" in text)
        terminal.press("n")
        terminal.shows(lambda text: "\nfirst   8 records" in text)
        terminal.press("pm")
        terminal.shows(lambda text: "\nsecond   5 records" in text and "activation mean, from input to loss" in text)
        terminal.press("q")
        assert terminal.end() == 0
        assert_clean(terminal)
        assert b"\x07" not in terminal.output


@pytest.mark.slow
def test_ctrl_c_leaves_a_clean_terminal(log: Log, tmp_path: Path) -> None:
    with watching(tmp_path / "logs") as terminal:
        terminal.shows(lambda text: "6 records" in text)
        terminal.press("\x03")
        assert terminal.end() == 0
        assert_clean(terminal)


@pytest.mark.slow
def test_it_fits_a_window_of_another_size(log: Log, tmp_path: Path) -> None:
    with watching(tmp_path / "logs", columns=100, lines=30) as terminal:
        terminal.shows(lambda text: "6 records" in text)
        terminal.resize(50, 12)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        before = len(terminal.output)
        terminal.shows(lambda text: len(terminal.output) > before and "6 records" in text)
        assert terminal.screen.columns == 50
        assert "q quits" in terminal.screen.display[0]
        terminal.press("q")
        assert terminal.end() == 0
        assert_clean(terminal)


@pytest.mark.slow
def test_a_directory_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with watching(tmp_path / "later") as terminal:
        terminal.shows(lambda text: "waiting for one" in text)
        Log(tmp_path / "later" / "events.out.tfevents.1").add(record(0))
        terminal.shows(lambda text: "1 record" in text)
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.slow
def test_a_log_that_goes_while_it_is_watched_is_no_fault(log: Log, tmp_path: Path) -> None:
    with watching(tmp_path / "logs") as terminal:
        terminal.shows(lambda text: "6 records" in text)
        log.path.unlink()
        terminal.shows(lambda text: "waiting for one" in text)
        Log(log.path).add(record(0), record(1))
        terminal.shows(lambda text: "2 records" in text)
        terminal.press("q")
        assert terminal.end() == 0
        assert_clean(terminal)


@pytest.mark.slow
def test_a_new_finding_rings_on_request(log: Log, tmp_path: Path) -> None:
    with watching(tmp_path / "logs", "--bell") as terminal:
        terminal.shows(lambda text: "6 records" in text)
        assert b"\x07" not in terminal.output
        log.add(record(6, float("nan"), 1.0, 1.0, nonfinite=[1.0, 0.0, 0.0]))
        terminal.shows(lambda text: "non_finite" in text)
        assert terminal.output.count(b"\x07") == 1


@pytest.mark.slow
def test_without_a_terminal_it_writes_a_line_for_each_finding(log: Log, tmp_path: Path) -> None:
    log.add(record(6, float("nan"), 1.0, 1.0, nonfinite=[1.0, 0.0, 0.0]))
    command = [sys.executable, "-m", "gradscope", "watch", str(tmp_path / "logs"), "--interval", "0.2"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=LIMIT) == 0
    assert " first: critical non_finite since step 6: " in line
    assert rest == ""


def test_a_look_judges_only_what_is_new(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []

    def diagnose(run: object) -> tuple[()]:
        judged.append(len(run.steps))  # type: ignore[attr-defined]
        return ()

    monkeypatch.setattr("gradscope.watching.diagnose", diagnose)
    watch = Watch(LogReader(tmp_path / "logs"))
    assert watch.look().changed
    assert not watch.look().changed
    log.add(record(6))
    assert watch.look().changed
    assert judged == [6, 7]


def test_a_finding_is_news_once_and_again_where_it_grows_worse(log: Log, tmp_path: Path) -> None:
    watch = Watch(LogReader(tmp_path / "logs"))
    assert watch.look().findings == ()
    log.add(record(6, float("nan"), 1.0, 1.0, nonfinite=[1.0, 0.0, 0.0]))
    assert [finding.code for _, finding in watch.look().findings] == ["non_finite"]
    log.add(record(7))
    assert watch.look().findings == ()


def test_the_run_written_to_last_comes_first(log: Log, tmp_path: Path) -> None:
    Log(tmp_path / "logs" / "older" / "events.out.tfevents.1").add(record(0, at=10))
    watch = Watch(LogReader(tmp_path / "logs"))
    watch.look()
    assert [one.run.name for one in watch.judged] == ["first", "older"]


@pytest.mark.slow
def test_a_reader_that_is_gone_ends_it(log: Log, tmp_path: Path) -> None:
    log.add(record(6, float("nan"), 1.0, 1.0, nonfinite=[1.0, 0.0, 0.0]))
    command = [sys.executable, "-m", "gradscope", "watch", str(tmp_path / "logs"), "--interval", "0.2"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=LIMIT) == 0
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_a_polite_kill_leaves_a_clean_terminal(log: Log, tmp_path: Path) -> None:
    with watching(tmp_path / "logs") as terminal:
        terminal.shows(lambda text: "6 records" in text)
        terminal.process.terminate()
        assert terminal.end() == 0
        assert_clean(terminal)


@pytest.mark.slow
def test_under_nohup_it_outlives_its_terminal(log: Log, tmp_path: Path) -> None:
    log.add(record(6, float("nan"), 1.0, 1.0, nonfinite=[1.0, 0.0, 0.0]))
    command = [sys.executable, "-m", "gradscope", "watch", str(tmp_path / "logs"), "--interval", "0.2"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        assert process.stdout is not None
        assert "non_finite" in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        log.add(record(7, 0.0, 0.0, 0.0), record(8))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.terminate()
        assert process.wait(timeout=LIMIT) == 0
