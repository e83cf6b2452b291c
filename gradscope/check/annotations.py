"""Findings as annotations of GitHub Actions: a line of text each that the runner turns into a note on the page.

Escaped as in @actions/core: ``%``, CR and LF of a message, and ``:`` and ``,`` of a property as well.
"""

from collections.abc import Iterator

from gradscope.check.baseline import Judged
from gradscope.records import Finding, Severity
from gradscope.wording import counted, one_line

LEVELS = {Severity.CRITICAL: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def annotations(judged: Judged) -> Iterator[str]:
    """Yield a workflow command for each finding, without its line end: what is known is a notice."""
    for index, (run, finding) in enumerate(judged.findings):
        known = index in judged.known
        level = "notice" if known else LEVELS[finding.severity]
        where = counted(len(finding.layers), "layer") if finding.layers else "the whole net"
        title = f"{'known: ' if known else ''}{finding.severity} {finding.code} in {where} of {run}"
        yield f"::{level} title={_property(title)}::{_message(finding)}"


def _message(finding: Finding) -> str:
    layers = f"Layers: {', '.join(finding.layers)}" if finding.layers else "The whole net."
    paragraphs = (finding.message, finding.hint, layers)
    return "%0A".join(_data(one_line(paragraph)) for paragraph in paragraphs)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(one_line(text)).replace(":", "%3A").replace(",", "%2C")
