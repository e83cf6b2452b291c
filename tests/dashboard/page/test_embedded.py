"""A report file's own data, as the page in it reads them: the cells of the run."""

import base64
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from gradscope.cells import measured_cells
from gradscope.dashboard.bundle import bundled
from gradscope.dashboard.content import STATIC
from gradscope.dashboard.html_report import html_report
from gradscope.records import Layer, Run
from tests.dashboard.modules import Module, floats
from tests.hand_written_runs import COLUMNS, empty_run, run_of, sick_run, sound_run

pytestmark = pytest.mark.slow

MATRIX = """async (m, run, metric) => {
  const data = new m.Embedded(JSON.parse(document.getElementById('gradscope-data').textContent));
  const {data: cells, ...rest} = await data.matrix(run, metric);
  return {...rest, cells: Array.from(cells)};
}"""
ASK = """async (m, method, ...given) => {
  return new m.Embedded(JSON.parse(document.getElementById('gradscope-data').textContent))[method](...given);
}"""

Opened = Callable[[dict[str, Run]], Module]


def odd_run() -> Run:
    layers = [Layer(name, "Linear", "linear") for name in ("a", "never", "b", "__proto__")]
    greatest, least = float(np.finfo(np.float32).max), 1e-45
    cells = [[0.0, math.nan, -1.5, 1], [greatest, math.nan, math.inf, 2], [least, math.nan, math.nan, 3]]
    return run_of("odd", layers, {"grad_norm": cells, "act_mean": math.nan}, records=3)


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """Opens a report of runs from a file, as a reader would."""
    page = browser.new_page(bypass_csp=True)  # else the test's own script would not run in it
    text = bundled("embedded.js", lambda name: (STATIC / name).read_text(encoding="utf-8"))
    text += "\nexport const {Embedded} = gradscopeModules['embedded.js'];"
    address = f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"

    def open_(runs: dict[str, Run]) -> Module:
        (tmp_path / "report.html").write_text(html_report(runs), encoding="utf-8")
        page.goto((tmp_path / "report.html").as_uri())
        return Module(page, address)

    yield open_
    page.close()


def test_every_cell_of_every_run_is_that_of_the_run(opened: Opened) -> None:
    runs = {run.name: run for run in (sick_run(), sound_run(), odd_run())}
    embedded = opened(runs)
    for name, run in runs.items():
        for metric in run.metrics:
            found = embedded.run(MATRIX, name, metric)
            cells = measured_cells(run, metric)
            np.testing.assert_allclose(floats(found["cells"]).reshape(cells.shape), cells, rtol=2**-13)
            assert found["steps"] == run.steps.tolist()
            assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in run.layers]
            assert found["measured"] == np.flatnonzero(~np.isnan(cells).all(axis=0)).tolist()
            assert found["complete"] is True
            assert found["metric"] == next(
                {
                    "name": c.name,
                    "title": c.title,
                    "unit": c.unit,
                    "healthy": {k: list(v) for k, v in c.healthy.items()},
                }
                for c in COLUMNS
                if c.name == metric
            )


def test_one_layer_has_the_metrics_that_were_measured_of_it(opened: Opened) -> None:
    run = sick_run()
    embedded = opened({"sick": run})
    for i in (0, 1, len(run.layers) - 1):
        found = embedded.run(ASK, "layer", "sick", run.layers[i].name)
        expected = {metric: measured_cells(run, metric)[:, i] for metric in run.metrics}
        assert found["layer"]["name"] == run.layers[i].name
        assert set(found["metrics"]) == {metric for metric, values in expected.items() if not np.isnan(values).all()}
        for metric, values in found["metrics"].items():
            np.testing.assert_allclose(floats(values), expected[metric], rtol=2**-13)


def test_a_matrix_is_unpacked_once_and_each_run_has_its_own(opened: Opened) -> None:
    embedded = opened({"sick": sick_run(), "sound": sound_run()})
    again = """async (m) => {
      const data = new m.Embedded(JSON.parse(document.getElementById('gradscope-data').textContent));
      const [sick, sound] = [await data.matrix('sick', 'grad_norm'), await data.matrix('sound', 'grad_norm')];
      return [sick.run, sound.run, sick === (await data.matrix('sick', 'grad_norm'))];
    }"""
    assert embedded.run(again) == ["sick", "sound", True]


def test_a_metric_that_no_layer_has_is_absent_everywhere(opened: Opened) -> None:
    embedded = opened({"sound": sound_run()})
    found = embedded.run(MATRIX, "sound", "dead_fraction")
    assert found["measured"] == []
    assert np.isnan(floats(found["cells"])).all()
    assert found["metric"]["title"] == "dead units"
    unknown: dict[str, Any] = embedded.run(MATRIX, "sound", "of_a_newer_gradscope")
    assert (unknown["measured"], unknown["metric"]["title"]) == ([], "of_a_newer_gradscope")


def test_an_empty_run_has_no_cells(opened: Opened) -> None:
    found = opened({"empty": empty_run()}).run(MATRIX, "empty", "grad_norm")
    assert (found["cells"], found["steps"], found["layers"], found["measured"]) == ([], [], [], [])


@pytest.mark.parametrize("name", ["</script><script>alert(1)//", "a/b &<>\"'", "\U0001f525\u202e", "__proto__", ""])
def test_runs_are_found_by_any_name(name: str, opened: Opened) -> None:
    embedded = opened({name: sound_run(), "other": sick_run()})
    assert [run["name"] for run in embedded.run(ASK, "runs")] == [name, "other"]
    assert embedded.run(ASK, "summary", name)["summary"]["records"] == 40
    assert embedded.run(MATRIX, name, "grad_norm")["measured"] == [0, 2, 4]


def test_where_nothing_is_drawn_there_is_nothing_to_save(opened: Opened) -> None:
    page = opened({}).page
    expect(page.get_by_role("button", name="Save CSV")).to_be_disabled()
    expect(page.get_by_role("button", name="Save PNG")).to_be_disabled()
    page = opened({"sound": sound_run()}).page
    expect(page.get_by_role("button", name="Save CSV")).to_be_enabled()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert len(Path(download.value.path()).read_text(encoding="utf-8").splitlines()) == 1 + 3
