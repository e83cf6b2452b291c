"""The verdict as loggers other than TensorBoard's can show it: a function for each that can.

Each is given the logger, and puts what is found in place of what was found before.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradscope.records import Finding, Run
from gradscope.rules.causes import in_order
from gradscope.summary import verdict, worst_severity
from gradscope.wording import one_line, steps

ROWS = ["severity", "finding", "follows from", "layers", "first step", "last step", "what happened", "what to change"]

_MARKUP = re.compile(r"[\\`*\[\]<>&|!#~]|\b_+(?!\w)|(?<!\w)_+|:(?=//)")
"""What Markdown or HTML could take for its own; an underscore within a word is none, the colon of an address is."""

Show = Callable[[Any, Run, Sequence[Finding], bool], None]
"""Takes a logger, a run, what is found in it, and whether the fit is over."""


def beside_metrics(logger: Any, run: Run, findings: Sequence[Finding], final: bool) -> None:
    """Write ``gradscope_verdict.md`` into the folder of a `CSVLogger`, whose table can hold but numbers."""
    import fsspec  # by which Lightning writes there, too: the folder may be a URL

    folder = logger.experiment.log_dir  # made with the experiment
    with fsspec.open(f"{folder}/gradscope_verdict.md", "w", encoding="utf-8") as file:
        file.write(as_markdown(run, findings))


def to_mlflow(logger: Any, run: Run, findings: Sequence[Finding], final: bool) -> None:
    """Give an `MLFlowLogger` the artifact ``gradscope/verdict.md``, and two tags by which runs can be searched."""
    client, identity = logger.experiment, logger.run_id
    client.log_text(identity, as_markdown(run, findings), "gradscope/verdict.md")
    for tag, value in _in_short(run, findings).items():
        client.set_tag(identity, tag, value)


def to_wandb(logger: Any, run: Run, findings: Sequence[Finding], final: bool) -> None:
    """Give a `WandbLogger` two fields of the run's summary, and at the end the table ``gradscope/verdict``."""
    logger.experiment.summary.update(_in_short(run, findings))
    if final:  # W&B keeps each table that it is given
        logger.log_table("gradscope/verdict", columns=ROWS, data=[_row(f) for f in in_order(findings)])


SHOWN: Mapping[str, Show] = {
    "loggers.CSVLogger": beside_metrics,
    "loggers.MLFlowLogger": to_mlflow,
    "loggers.WandbLogger": to_wandb,
}
"""By the name of a logger's class in Lightning, how it shows the verdict."""


def as_markdown(run: Run, findings: Sequence[Finding]) -> str:
    """Return the verdict as a page of Markdown: a sentence, and a section for each finding, the worst first."""
    since = f", after step {run.steps[-1]}" if len(run.steps) else ""
    sections = [f"**GradScope: {verdict(run, findings)}{since}.**", *map(_section, in_order(findings))]
    return "\n\n".join(sections) + "\n"


def _in_short(run: Run, findings: Sequence[Finding]) -> dict[str, str]:
    return {
        "gradscope/in_short": verdict(run, findings),
        "gradscope/worst_severity": str(worst_severity(findings) or "none"),
    }


def _section(finding: Finding) -> str:
    when = steps(finding.first_step, finding.last_step)
    where = ", ".join(map(_code, finding.layers)) or "the whole net"
    cause = f" It follows from {finding.cause}." if finding.cause else ""
    return "\n\n".join(
        [
            f"## {finding.severity}: {finding.code}, {when}",
            f"In {where}.{cause}",
            _plain(finding.message),
            f"*What to change:* {_plain(finding.hint)}",
        ]
    )


def _code(name: str) -> str:
    """Return `name` so that it is shown letter for letter, whatever it is: between more backticks than it has."""
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    space = " " if "`" in name else ""
    return f"{fence}{space}{one_line(name)}{space}{fence}"


def _plain(text: str) -> str:
    """Return `text` so that neither Markdown nor HTML sees anything but letters in it."""
    return _MARKUP.sub(lambda signs: "".join(f"\\{sign}" for sign in signs[0]), one_line(text))


def _row(finding: Finding) -> list[str | int]:
    texts = [str(finding.severity), finding.code, finding.cause, ", ".join(finding.layers) or "the whole net"]
    return [
        *map(one_line, texts),
        finding.first_step,
        finding.last_step,
        one_line(finding.message),
        one_line(finding.hint),
    ]
