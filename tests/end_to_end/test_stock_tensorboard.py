"""What a real TensorBoard server lists of a log: no plug-in of ours is needed for these dashboards."""

import html
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradscope.events.encoding import Encoder
from gradscope.events.reading import load
from gradscope.events.stock import distribution, heat_map, scalar_values, scalars, verdict_table
from gradscope.records import Finding, Layer, Metric, Record, Severity
from tests.end_to_end.tensorboard_server import tensorboard

pytestmark = pytest.mark.slow

COLUMNS = (
    Metric("grad_norm", "Gradient norm", "L2 norm"),
    Metric("dead_fraction", "Dead units", "fraction"),
)
STEPS = [*range(10), *range(10, 200, 10)]
DEPTH = 10


def records() -> list[Record]:
    """Return a run of ten layers whose gradients vanish towards the input by 1e-5."""
    noise = np.random.default_rng(0).lognormal(0, 0.3, (len(STEPS), DEPTH))
    norms = (10.0 ** np.linspace(-6, -1, DEPTH) * noise).astype(np.float32)
    layers = tuple(Layer(f"encoder.{i}", "Linear", "linear") for i in range(DEPTH))
    dead = np.linspace(0.5, 0.0, DEPTH, dtype=np.float32)
    return [
        Record(step, 1000.0 + step, layers, {"grad_norm": row, "dead_fraction": dead}, {"total_norm": float(row.max())})
        for step, row in zip(STEPS, norms, strict=True)
    ]


def write_log(directory: Path) -> None:
    writer = EventFileWriter(str(directory))
    encoder = Encoder(COLUMNS)
    for record in records():
        summary = encoder.record(record)
        summary.value.extend(scalar_values(scalars(record, COLUMNS)))
        fan = distribution(record)
        assert fan is not None
        summary.value.append(fan)
        writer.add_event(Event(step=record.step, wall_time=record.wall_time, summary=summary))
    writer.flush()
    (run,) = load(directory).values()
    findings = (
        Finding(
            "vanishing_gradient",
            Severity.CRITICAL,
            ("<b>hostile|`", "encoder.0", "encoder.1", "encoder.2"),
            0,
            190,
            "The gradient norm of the layers nearest the input is 1e-5 of that nearest the loss.",
            "Use a rectifier in place of the saturating activations, or add skip connections.",
        ),
        Finding(
            "dead_relu", Severity.WARNING, ("encoder.0",), 0, 190, "Half of the units are dead.", "Lower the rate."
        ),
    )
    picture = heat_map(run)
    assert picture is not None
    last = Summary(value=[picture, verdict_table(findings)])
    writer.add_event(Event(step=STEPS[-1], wall_time=2000.0, summary=last))
    writer.close()


def get(url: str, **query: str) -> bytes:
    address = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    with urllib.request.urlopen(address, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def tags(base: str, plugin: str) -> Mapping[str, Any]:
    """Return the tags of the run "fit", once the server has read it all."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found: dict[str, Mapping[str, Any]] = json.loads(get(f"{base}/data/plugin/{plugin}/tags"))
            if found.get("fit"):
                return found["fit"]
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.3)
    raise AssertionError(f"no {plugin} tags of the run within 60 s")


@pytest.fixture(scope="module", params=["true", "false"], ids=["rustboard", "python reader"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    logdir = tmp_path_factory.mktemp("logs")
    write_log(logdir / "fit")
    with tensorboard(logdir, request.param) as address:
        yield address


def test_scalars(server: str) -> None:
    found = tags(server, "scalars")
    assert set(found) == set(scalars(records()[0], COLUMNS))
    curve = json.loads(get(f"{server}/data/plugin/scalars/scalars", run="fit", tag="gradscope/grad_norm/median"))
    assert [step for _, step, _ in curve] == STEPS
    expected = [scalars(record, COLUMNS)["gradscope/grad_norm/median"] for record in records()]
    np.testing.assert_allclose([value for *_, value in curve], expected, rtol=1e-6)


@pytest.mark.parametrize("plugin", ["histograms", "distributions"])
def test_distribution(server: str, plugin: str) -> None:
    tag = "gradscope/log10_grad_norm_over_layers"
    assert set(tags(server, plugin)) == {tag}
    answer = json.loads(get(f"{server}/data/plugin/{plugin}/{plugin}", run="fit", tag=tag))
    assert [step for _, step, _ in answer] == STEPS


def test_heat_map(server: str) -> None:
    tag = "gradscope/heat_map/grad_norm"
    assert set(tags(server, "images")) == {tag}
    (entry,) = json.loads(get(f"{server}/data/plugin/images/images", run="fit", tag=tag, sample="0"))
    assert entry["step"] == STEPS[-1]
    picture = get(f"{server}/data/plugin/images/individualImage?{entry['query']}")
    assert picture.startswith(b"\x89PNG")


def test_verdicts(server: str) -> None:
    assert list(tags(server, "text")) == ["gradscope/verdict"]
    (entry,) = json.loads(get(f"{server}/data/plugin/text/text", run="fit", tag="gradscope/verdict"))
    assert entry["text"].count("<tr>") == 3
    assert "<b>" not in entry["text"]
    assert "<b>hostile|`, encoder.0," in html.unescape(entry["text"])
    assert "+1 more" in entry["text"]
