"""The verdict as each logger can show it: what a person reads there, rewritten and never piled up."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from gradscope import Finding, GradScope, Run, Severity
from gradscope.lightning.verdicts import as_markdown
from tests.lightning.test_actions import sick
from tests.lightning.test_loggers import _alone, installed
from tests.models import Batches, Classifier, mlp, trainer

__all__ = ["_alone"]  # a fixture: those libraries keep to themselves

DEAD = Finding(
    "dead_relu", Severity.CRITICAL, ("net.1", "a\nb"), 0, 9, "Half is dead.", "Start anew.", cause="update_ratio_high"
)
SLOW = Finding("update_ratio_low", Severity.WARNING, (), 3, 9, "It hardly moves.", "Raise the rate.")
EMPTY = Run.from_records("fit", (), ())


def test_a_page_of_markdown() -> None:
    run = replace(EMPTY, steps=np.array([0, 9]))
    assert as_markdown(run, [SLOW, DEAD]) == (
        "**GradScope: 2 findings: critical dead_relu in 2 layers, after step 9.**\n\n"
        "## critical: dead_relu, steps 0 to 9\n\n"
        "In `net.1`, `a b`. It follows from update_ratio_high.\n\n"
        "Half is dead.\n\n"
        "*What to change:* Start anew.\n\n"
        "## warning: update_ratio_low, steps 3 to 9\n\n"
        "In the whole net.\n\n"
        "It hardly moves.\n\n"
        "*What to change:* Raise the rate.\n"
    )
    assert as_markdown(EMPTY, []) == "**GradScope: nothing was recorded.**\n"
    as_markdown(run, [replace(SLOW, message="\ud800")]).encode()


# ------------------------------------------------------------------ what each logger was given

Shown = Callable[[], str]


def of_csv(folder: Path) -> tuple[Logger, Shown]:
    def shown() -> str:
        assert len(list(folder.glob("gradscope*"))) == 1
        return (folder / "gradscope_verdict.md").read_text()

    return CSVLogger(folder, name="", version=""), shown


def of_mlflow(folder: Path) -> tuple[Logger, Shown]:
    logger = MLFlowLogger(tracking_uri=f"file:{folder}")

    def shown() -> str:
        client, identity = logger.experiment, logger.run_id
        assert identity is not None
        tags = client.get_run(identity).data.tags
        assert [a.path for a in client.list_artifacts(identity, "gradscope")] == ["gradscope/verdict.md"]
        page = Path(client.download_artifacts(identity, "gradscope/verdict.md")).read_text()
        assert tags["gradscope/in_short"] in page
        assert tags["gradscope/worst_severity"] in page or tags["gradscope/worst_severity"] == "none"
        return page

    return logger, shown


def of_wandb(folder: Path) -> tuple[Logger, Shown]:
    logger = WandbLogger(save_dir=folder, offline=True)

    def shown() -> str:
        summary = logger.experiment.summary
        in_short, worst = summary["gradscope/in_short"], summary["gradscope/worst_severity"]
        (table,) = folder.rglob("*.table.json")
        rows = json.loads(table.read_text())["data"]
        assert worst == (rows[0][0] if rows else "none")
        logger.experiment.finish()
        return f"{in_short}: " + "; ".join(map(str, rows))

    return logger, shown


LOGGERS = [
    of_csv,
    pytest.param(of_mlflow, marks=[installed("mlflow"), pytest.mark.slow]),
    pytest.param(of_wandb, marks=[installed("wandb"), pytest.mark.slow]),
]


def fitted(logger: Logger, sickness: bool = True, **options: Any) -> GradScope:
    scope = GradScope(every_n_steps=1, summary=False, on_finding="ignore", **options)
    trainer(scope, logger=logger).fit(sick() if sickness else Classifier(mlp()), Batches(number=40))
    assert scope.run.coverage.unseen == {}
    return scope


@pytest.mark.filterwarnings("ignore")  # those libraries' own
@pytest.mark.parametrize("make", LOGGERS)
def test_a_logger_shows_the_last_verdict_alone(make: Callable[[Path], tuple[Logger, Shown]], tmp_path: Path) -> None:
    logger, shown = make(tmp_path / "log")
    scope = fitted(logger)
    text = shown()
    (found,) = scope.findings
    assert "1 finding: critical dead_relu in" in text
    for part in (found.message, found.hint, "net.1"):
        assert text.count(part) >= 1
    assert text.count(found.message) == 1, "written over, not added to"
    assert "39" in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", LOGGERS)
def test_a_sound_net_is_said_to_be(make: Callable[[Path], tuple[Logger, Shown]], tmp_path: Path) -> None:
    logger, shown = make(tmp_path / "log")
    fitted(logger, sickness=False)
    assert "no disease found in 5 layers over 40 records" in shown()


def test_a_verdict_is_there_on_the_way_and_after_an_exception(tmp_path: Path) -> None:
    seen: list[str] = []

    class Stops(type(sick())):  # type: ignore[misc]  # of the class that a function returns
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 15:
                seen.append((tmp_path / "gradscope_verdict.md").read_text())
                raise KeyError("the user's own mistake")
            return super().training_step(batch, batch_idx)

    model = Stops(sick().net)
    scope = GradScope(every_n_steps=1, summary=False, on_finding="ignore")
    with pytest.raises(KeyError):
        trainer(scope, logger=CSVLogger(tmp_path, name="", version="")).fit(model, Batches(number=40))
    assert "dead_relu" in seen[0]
    assert "after step 12" in seen[0], "as of the last diagnosis"
    assert "after step 14" in (tmp_path / "gradscope_verdict.md").read_text()


def test_no_verdict_where_none_is_asked_for(tmp_path: Path) -> None:
    fitted(CSVLogger(tmp_path, name="", version=""), log=["scalars"])
    assert {path.name for path in tmp_path.iterdir()} - {"hparams.yaml"} == {"metrics.csv"}


def test_a_verdict_that_cannot_be_written_leaves_the_aggregates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    (Path(logger.experiment.log_dir) / "gradscope_verdict.md").mkdir()
    fitted(logger)
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 41
    (line,) = [r.getMessage() for r in caplog.records if r.name == "gradscope"]
    assert line.startswith("GradScope: no longer writes to the verdict of CSVLogger after IsADirectoryError")


def test_any_other_logger_is_given_the_aggregates_alone(tmp_path: Path) -> None:
    class Other(Logger):
        name, version = "other", "0"

        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.calls.append(",".join(metrics))

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            self.calls.append("hyperparameters")

    logger = Other()
    fitted(logger)
    assert len([call for call in logger.calls if "gradscope/total_norm" in call]) == 40
    assert not any("verdict" in call for call in logger.calls)
