"""Logs of which something is wrong, or that somebody wrote to do harm."""

import math
from pathlib import Path

import numpy as np

from gradscope.records import Layer, Metric, Record
from tests.dashboard.served import GRAD_NORM, LAYERS, NONFINITE, Log, floats, record

NAN, INF = math.nan, math.inf
TRAP = "<img src=x onerror=window.harmed=1>"
SCRIPT = "<script>window.harmed=1</script>"
NAMES = (
    SCRIPT,
    f"\"'>{TRAP}",
    "\u202egnp.\u200brevo\u2066",
    "x" * 300,
    "a." * 100 + "b",
    "${window.harmed=1}`\\",
    "javascript:window.harmed=1",
    "&lt;b&gt;\x00\x1b[31m\n\r\t",
    "=cmd|'/C calc'!A0",
    "",
)
RECORDS = 60


def hostile_records() -> list[Record]:
    """Return a net whose gradient vanishes, so that findings name its layers."""
    layers = tuple(Layer(name, f"{name}{TRAP}", "linear") for name in NAMES)
    norms = (10.0 ** np.linspace(-8, -1, len(NAMES))).astype(np.float32)
    return [Record(step, 1000.0 + step, layers, {"grad_norm": norms}, {"loss": 2.3}) for step in range(RECORDS)]


def write_hostile(logdir: Path) -> None:
    """Write a run called `SCRIPT`, each of whose names is a trap."""
    columns = (Metric("grad_norm", f"gradient {TRAP}", "L2 norm"), NONFINITE)
    log = Log(logdir / SCRIPT / "events.out.tfevents.1.host", columns)
    log.add(*hostile_records())


def write_odd(logdir: Path) -> None:
    """Write a run of each kind that may be met without anybody's ill will."""
    log(logdir, "all lost").add(*(record(s, NAN, INF, NAN, nonfinite=[1, 1, 1]) for s in range(12)))
    log(logdir, "nothing measured").add(*(record(s, NAN, NAN, NAN) for s in range(3)))
    log(logdir, "no layers").add(*(Record(s, 1.0 + s, (), {"grad_norm": floats()}, {"loss": NAN}) for s in range(3)))
    log(logdir, "one step").add(record(7))
    log(logdir, "extremes").add(record(0, 3e38, 1e-45, -0.0), record(2**40, 1, 1, 1))
    grown = (Layer("stem", "Linear", "linear"), *LAYERS)
    log(logdir, "changing").add(record(0), record(1), record(2, layers=grown), record(3, layers=grown[:2]))
    half = log(logdir, "half").add(*(record(s) for s in range(5)))
    half.path.write_bytes(half.path.read_bytes()[:-40])
    newer = log(logdir, "newer")
    summary = newer.encoder.record(record(0))
    for value in summary.value:
        value.metadata.plugin_data.content = b'{"v":2,"kind":"matrix","metric":"grad_norm"}'
    newer.add_summary(summary)


def log(logdir: Path, name: str) -> Log:
    return Log(logdir / name / "events.out.tfevents.1.host", (GRAD_NORM, NONFINITE))
