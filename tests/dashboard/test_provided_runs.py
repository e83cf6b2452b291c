"""What is made of a data provider's answers: a written-out provider stands in for those that cannot be had here."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter, TensorDatum, TensorTimeSeries

from gradscope.dashboard.provided_runs import ProvidedRuns, sample_of
from gradscope.events.reading import load
from gradscope.records import Layer
from tests.dashboard.served import LAYERS, Log, Tab, floats, record
from tests.hand_written_runs import sick_run

MATRIX = b'{"v":1,"kind":"matrix","metric":"grad_norm","title":"gradient norm","unit":"L2 norm","healthy":{}}'
DESCRIPTIONS = {
    "gradscope/grad_norm": MATRIX,
    "gradscope/layers": b'{"v":1,"kind":"layers"}',
    "gradscope/globals": b'{"v":1,"kind":"globals","names":["loss"]}',
    "gradscope/verdicts": b'{"v":1,"kind":"verdicts"}',
}
Point = tuple[int, float, npt.NDArray[Any]]


class WrittenProvider:
    """Holds the series of a single run called "run", as step, wall time and array."""

    def __init__(self, series: Mapping[str, Sequence[Point]]) -> None:
        self.series = {f"gradscope/{name}": points for name, points in series.items()}

    def list_tensors(self, ctx: object, *, experiment_id: str, plugin_name: str, run_tag_filter: RunTagFilter) -> Any:
        return {
            "run": {
                tag: TensorTimeSeries(
                    max_step=max((p[0] for p in points), default=None),
                    max_wall_time=max((p[1] for p in points), default=None),
                    plugin_content=DESCRIPTIONS[tag],
                    description="",
                    display_name="",
                )
                for tag, points in self.series.items()
            }
        }

    def read_tensors(
        self, ctx: object, *, experiment_id: str, plugin_name: str, downsample: int, run_tag_filter: RunTagFilter
    ) -> Any:
        assert isinstance(downsample, int), "without one TensorBoard raises"
        tags = [tag for tag in self.series if tag in run_tag_filter.tags]
        return {"run": {t: [TensorDatum(*point) for point in self.series[t][-downsample:]] for t in tags}}

    def runs(self) -> ProvidedRuns:
        return ProvidedRuns(self, None, "")


def table(*names: str, kind: str = "bytes") -> npt.NDArray[Any]:
    cells = [[name, "Linear", "linear"] for name in names]
    if kind == "str":
        return np.array(cells, dtype=object)
    if kind == "U":
        return np.array(cells)
    return np.array([[cell.encode() for cell in row] for row in cells], dtype=object)


@pytest.mark.parametrize("kind", ["bytes", "str", "U"])
def test_strings_may_be_bytes_or_text(kind: str) -> None:
    verdict: Any = '{"severity":"warning"}'
    verdicts = np.array([verdict if kind != "bytes" else verdict.encode()], dtype=object)
    provider = WrittenProvider(
        {
            "grad_norm": [(0, 1.0, floats(1, 2))],
            "layers": [(0, 1.0, table("a", "слой", kind=kind))],
            "verdicts": [(0, 1.0, verdicts)],
        }
    )
    listed = provider.runs().runs()["run"]
    assert [layer.name for layer in provider.runs().read(listed).layers] == ["a", "слой"]
    assert provider.runs().severities() == {"run": "warning"}


def test_of_superseded_records_the_later_wall_time_wins_in_any_order() -> None:
    old = [(step, 10.0 + step, floats(step)) for step in range(4)]
    new = [(step, 20.0 + step, floats(9)) for step in (2, 3)]
    for points in (old + new, sorted(old + new, key=lambda p: p[0]), new + old):
        provider = WrittenProvider({"grad_norm": points, "layers": [(0, 10.0, table("a"))]})
        run = provider.runs().read(provider.runs().runs()["run"])
        assert run.steps.tolist() == [0, 1, 2, 3]
        assert run.wall_times.tolist() == [10.0, 11.0, 22.0, 23.0]
        assert run.metric("grad_norm")[:, 0].tolist() == [0, 1, 9, 9]


def test_each_record_has_the_layers_of_its_time() -> None:
    provider = WrittenProvider(
        {
            "grad_norm": [(0, 1.0, floats(1, 2)), (1, 2.0, floats(3, 4)), (2, 3.0, floats(5, 6))],
            "layers": [(0, 1.0, table("a", "b")), (2, 3.0, table("b", "c"))],
        }
    )
    run = provider.runs().read(provider.runs().runs()["run"])
    assert [layer.name for layer in run.layers] == ["b", "c", "a"]
    none = math.nan
    np.testing.assert_array_equal(run.metric("grad_norm"), [[2, none, 1], [4, none, 3], [5, 6, none]])


def test_tags_whose_steps_differ_are_joined_by_step() -> None:
    provider = WrittenProvider(
        {
            "grad_norm": [(0, 1.0, floats(1)), (2, 3.0, floats(3))],
            "layers": [(0, 1.0, table("a"))],
            "globals": [(1, 2.0, floats(0.5)), (2, 3.0, floats(0.25))],
        }
    )
    listed = provider.runs().runs()["run"]
    sample = provider.runs().read_metric(listed, "grad_norm", 1)
    assert sample.complete
    assert sample.run.steps.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(sample.run.metric("grad_norm")[:, 0], [1, math.nan, 3])
    np.testing.assert_array_equal(sample.run.series("loss"), [math.nan, 0.5, 0.25])


def test_an_array_of_another_kind_is_left_out_with_a_note() -> None:
    provider = WrittenProvider(
        {"grad_norm": [(0, 1.0, np.array([1.0, 2.0]))], "layers": [(0, 1.0, table("a", "b"))], "globals": []}
    )
    run = provider.runs().read(provider.runs().runs()["run"])
    assert len(run.steps) == 0
    assert run.notes[0].startswith("grad_norm: left out of 1 record from step 0 on")


def test_reads_what_is_read_from_the_file(tmp_path: Path) -> None:
    grown = (*LAYERS, Layer("head", "Linear", "linear"))
    log = Log(tmp_path / "run" / "tfevents").add(record(0), record(3, math.inf, math.nan, 0), record(9, layers=grown))
    log.add_summary(log.encoder.status(sick_run()), 9, 1009.0)
    tab = Tab(tmp_path)
    provided = ProvidedRuns(tab.provider, RequestContext(), "")
    run, loaded = provided.read(provided.runs("run")["run"]), load(tmp_path)["run"]
    assert (run.name, run.layers, run.columns, run.notes) == (loaded.name, loaded.layers, loaded.columns, ())
    assert (run.thresholds, run.coverage, run.overhead) == (loaded.thresholds, loaded.coverage, loaded.overhead)
    np.testing.assert_array_equal(run.steps, loaded.steps)
    np.testing.assert_array_equal(run.wall_times, loaded.wall_times)
    for name, values in loaded.metrics.items():
        assert run.metric(name).tobytes() == values.tobytes()
    for name, series in loaded.globals.items():
        np.testing.assert_array_equal(run.series(name), series)


@pytest.mark.parametrize("records", [1, 2, 56, 57, 1000, None])
def test_a_sample_keeps_the_last_record_and_is_spread_evenly(records: int | None) -> None:
    run = sick_run()
    sample, complete = sample_of(run, "grad_norm", records)
    assert len(sample.steps) == min(records or 57, 57)
    assert sample.steps[-1] == run.steps[-1]
    assert complete == (len(sample.steps) == 57)
    assert (np.diff(sample.steps) > 0).all()
    assert set(sample.metrics) == {"grad_norm", "nonfinite"}
    if records == 2:
        assert sample.steps.tolist() == [0, 560]
