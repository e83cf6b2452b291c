"""The tab's routes on a real TensorBoard server with either of its readers."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradscope import cli, load
from gradscope.cells import measured_cells
from gradscope.records import Layer, Record
from tests.dashboard.served import COLUMNS, LAYERS, Log, Matrix, floats, record, strict_json, unpacked
from tests.end_to_end.tensorboard_server import tensorboard, wait_until

pytestmark = pytest.mark.slow

NAN = math.nan
GROWN = (*LAYERS, Layer("head", "Linear", "linear"))
SICK = [Layer(f"encoder.{i}", "Linear", "linear") for i in range(10)]


class Server:
    """A TensorBoard over `logdir`."""

    def __init__(self, address: str, logdir: Path) -> None:
        self.address, self.logdir = address, logdir

    def get(self, route: str, **query: Any) -> bytes:
        address = f"{self.address}/data/plugin/gradscope/{route}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=20) as answer:
            content: bytes = answer.read()
            return content

    def json(self, route: str, **query: Any) -> Any:
        return strict_json(self.get(route, **query))

    def matrix(self, run: str, metric: str = "grad_norm", **query: Any) -> Matrix:
        return unpacked(self.get("matrix", run=run, metric=metric, **query))

    def listed(self) -> dict[str, dict[str, Any]]:
        return {run["name"]: run for run in self.json("runs")["runs"]}

    def wait(self, done: Callable[[], object]) -> None:
        wait_until(done)


def write_runs(logdir: Path) -> None:
    """Write a run of each kind that there is."""
    norms = 10.0 ** np.linspace(-8, -1, 10)
    sick = Log(logdir / "sick" / "seed_10" / "events.out.tfevents.1.host")
    for step in range(150):
        flags = [float(step == 70)] * 10
        values = norms if step != 70 else [NAN] * 10
        metrics = {"grad_norm": floats(*values), "nonfinite": floats(*flags)}
        sick.add(Record(step, 1000.0 + step, tuple(SICK), metrics, {"loss": 2.3, "skipped": 0.0}))
    sick.add_summary(sick.encoder.verdicts([]), 149)
    Log(logdir / "one" / "tfevents.1").add(record(5))
    Log(logdir / "bare" / "tfevents.1").add(*(Record(s, 1.0 + s, (), {"grad_norm": floats()}, {}) for s in range(3)))
    Log(logdir / "changing" / "tfevents.1").add(
        record(0), record(1), record(2, layers=GROWN), record(3, layers=GROWN[1:]), record(4, layers=GROWN[1:])
    )
    Log(logdir / "resumed" / "tfevents.1").add(*(record(s) for s in range(10)))
    Log(logdir / "resumed" / "tfevents.2").add(*(record(s, 9, 9, 9, at=2000.0) for s in range(6, 8)))
    Log(logdir / "half" / "tfevents.1").add(*(record(s) for s in range(5)))
    whole = (logdir / "half" / "tfevents.1").read_bytes()
    (logdir / "half" / "tfevents.1").write_bytes(whole[:-40])
    newer = Log(logdir / "newer" / "tfevents.1")
    summary = newer.encoder.record(record(0))
    for value in summary.value:
        value.metadata.plugin_data.content = b'{"v":2,"kind":"matrix","metric":"grad_norm"}'
    newer.add_summary(summary)
    Log(logdir / "ünï <b>&\"' 1" / "tfevents.1").add(record(0, act_mean=[NAN, 0.5, NAN]))


NAMES = ["bare", "changing", "half", "newer", "one", "resumed", "sick/seed_10", "ünï <b>&\"' 1"]


@pytest.fixture(scope="module", params=["true", "false"], ids=["rustboard", "python reader"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    logdir = tmp_path_factory.mktemp("logs")
    write_runs(logdir)
    with tensorboard(logdir, request.param) as address:
        served = Server(address, logdir)
        served.wait(lambda: list(served.listed()) == NAMES and served.listed()["sick/seed_10"]["severity"])
        yield served


def test_the_tab_is_there(server: Server) -> None:
    with urllib.request.urlopen(f"{server.address}/data/plugins_listing", timeout=20) as answer:
        listing = json.load(answer)
    assert listing["gradscope"]["enabled"]
    assert listing["gradscope"]["tab_name"] == "GradScope"


def test_the_list_of_runs(server: Server) -> None:
    runs = server.listed()
    sick = runs["sick/seed_10"]
    assert (sick["last_step"], sick["last_wall_time"], sick["severity"]) == (149, 5000.0, "sound")
    assert [metric["name"] for metric in sick["metrics"]] == ["grad_norm", "nonfinite"]
    assert (runs["one"]["last_step"], runs["one"]["severity"]) == (5, None)
    assert runs["newer"]["metrics"] == []
    assert server.listed() == runs


@pytest.mark.parametrize("name", [name for name in NAMES if name != "newer"])
def test_a_matrix_is_what_the_file_holds(server: Server, name: str) -> None:
    run = load(server.logdir)[name]
    for metric in ("grad_norm", "act_mean"):
        header, cells = server.matrix(name, metric)
        kept = np.isin(run.steps, header["steps"])
        assert kept.all() or name == "resumed", "only one of the readers keeps what was superseded"
        np.testing.assert_array_equal(cells, measured_cells(run, metric)[kept])
        assert header["steps"] == run.steps[kept].tolist()
        assert [layer["name"] for layer in header["layers"]] == [layer.name for layer in run.layers]
        assert (header["complete"], header["appended"]) == (True, False)
    assert np.isposinf(server.matrix("sick/seed_10").cells[70]).all()


def test_a_choice_of_records(server: Server) -> None:
    run = load(server.logdir)["sick/seed_10"]
    for _ in range(2):
        header, cells = server.matrix("sick/seed_10", records=20)
        assert 20 <= len(header["steps"]) <= 21
        assert (header["steps"][-1], header["complete"]) == (149, False)
        np.testing.assert_array_equal(cells, measured_cells(run, "grad_norm")[header["steps"]])
        server.json("summary", run="sick/seed_10")  # from now on the whole run is at hand
    for records in (149, 150, 1000):
        steps = server.matrix("sick/seed_10", records=records).header["steps"]
        assert len(steps) in (149, 150)
    assert server.matrix("changing", records=2).header["steps"][-1] == 4


def test_the_findings_are_those_of_the_command(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["summary", str(server.logdir), "--json"])
    printed = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert [f["code"] for f in printed["sick/seed_10"]["findings"]] == ["non_finite", "vanishing_gradient"]
    for name in NAMES:
        answer = server.json("summary", run=name)
        assert answer["version"] == server.listed()[name]["version"]
        if name not in ("half", "resumed"):  # what is damaged the server leaves out without a note
            assert answer["summary"] == printed[name]
    assert server.json("summary", run="one")["severity"] == "unjudged"
    assert server.json("summary", run="half")["summary"]["records"] == 4
    assert server.json("summary", run="newer")["summary"]["notes"] == printed["newer"]["notes"]


def test_one_layer(server: Server) -> None:
    answer = server.json("layer", run="sick/seed_10", layer="encoder.3")
    assert answer["metrics"]["grad_norm"][69:72] == [
        pytest.approx(10 ** (-8 + 7 / 3), rel=1e-6),
        "inf",
        pytest.approx(10 ** (-8 + 7 / 3), rel=1e-6),
    ]
    assert answer["metrics"]["nonfinite"][69:72] == [0, 1, 0]


@pytest.mark.parametrize("path", ["../plugin.py", "%2e%2e%2fplugin.py", "..%5cplugin.py", "gone.js"])
def test_nothing_but_the_page_is_served(server: Server, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        urllib.request.urlopen(f"{server.address}/data/plugin/gradscope/static/{path}", timeout=20)
    caught.value.close()


@pytest.mark.parametrize("load_fast", ["true", "false"], ids=["rustboard", "python reader"])
def test_a_run_that_grows_and_is_resumed(tmp_path: Path, load_fast: str) -> None:
    log = Log(tmp_path / "run" / "events.out.tfevents.1000.host", COLUMNS).add(*(record(s) for s in range(4)))
    with tensorboard(tmp_path, load_fast) as address:
        server = Server(address, tmp_path)
        server.wait(lambda: server.matrix("run").header["steps"] == [0, 1, 2, 3])
        version, token = server.listed()["run"]["version"], server.matrix("run").header["token"]
        server.json("summary", run="run")
        assert server.listed()["run"]["version"] == version
        assert server.matrix("run", after=token).header["steps"] == []

        log.add(record(4), record(5))
        server.wait(lambda: server.matrix("run").header["steps"][-1] == 5)
        assert server.listed()["run"]["version"] != version
        new = server.matrix("run", after=token)
        assert (new.header["steps"], new.header["appended"]) == ([4, 5], True)
        assert new.cells[:, 0].tolist() == [4, 5]
        assert server.json("summary", run="run")["steps"] == [0, 1, 2, 3, 4, 5]

        # TensorBoard reads on in a new file only where its name is behind the others.
        again = Log(tmp_path / "run" / "events.out.tfevents.2000.host").add(record(3, 9, 9, 9, at=2000.0))
        server.wait(lambda: server.matrix("run").cells[3, 0] == 9)
        anew = server.matrix("run", after=new.header["token"])
        assert (anew.header["steps"][:4], anew.header["appended"]) == ([0, 1, 2, 3], False)
        again.add(record(4, 9, 9, 9, at=2000.0), record(5, 9, 9, 9, at=2000.0))
        server.wait(lambda: server.matrix("run").cells[5:, 0].tolist() == [9])
        anew = server.matrix("run", after=new.header["token"])
        assert (anew.header["steps"], anew.header["appended"]) == ([0, 1, 2, 3, 4, 5], False)
        assert anew.cells[:, 0].tolist() == [0, 1, 2, 9, 9, 9]


@pytest.mark.parametrize("load_fast", ["true", "false"], ids=["rustboard", "python reader"])
def test_a_thousand_records_are_kept(tmp_path: Path, load_fast: str) -> None:
    Log(tmp_path / "run" / "tfevents.1").add(*(record(s) for s in range(1200)))
    with tensorboard(tmp_path, load_fast) as address:
        server = Server(address, tmp_path)
        server.wait(lambda: server.listed()["run"]["last_step"] == 1199)
        steps = server.matrix("run").header["steps"]
        assert len(steps) == 1000
        assert steps[-1] == 1199
        assert len(server.json("summary", run="run")["steps"]) == 1000
