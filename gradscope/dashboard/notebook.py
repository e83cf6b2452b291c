"""What a notebook shows of a run: the page made small, without a script, so that a saved notebook keeps it."""

import base64
from html import escape

from gradscope.explanations import EXPLANATIONS
from gradscope.heatmap import heat_map_png
from gradscope.records import Finding, Run, Severity
from gradscope.rules import diagnose
from gradscope.summary import is_unjudged, verdict, worst_severity
from gradscope.wording import counted, one_line, steps

_SIGNS = {None: "✔", Severity.INFO: "●", Severity.WARNING: "▲", Severity.CRITICAL: "✖"}
_LAYERS_NAMED = 6
_WIDTH = 720


def notebook_html(run: Run) -> str:
    """Return HTML without scripts: the verdict on `run`, its findings, and its gradient norms as a heat map.

    Any run gives a picture or a sentence that says why there is none.
    """
    findings = diagnose(run)
    picture = heat_map_png(run, "grad_norm", _WIDTH)
    address = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    return "".join(
        [
            f'<div style="max-width: {picture.width}px">',
            f"<p><strong>{_sign(run, findings)} {_text(_sentence(run, findings))}</strong> ",
            f"{_text(run.name)}, {counted(len(run.steps), 'record')}, {counted(len(run.layers), 'layer')}</p>",
            f'<img src="{address}" width="{picture.width}" height="{picture.height}" alt="gradient norm over steps">',
            *map(_finding, findings),
            "</div>",
        ]
    )


def _sign(run: Run, findings: tuple[Finding, ...]) -> str:
    return "○" if is_unjudged(run, findings) else _SIGNS[worst_severity(findings)]


def _sentence(run: Run, findings: tuple[Finding, ...]) -> str:
    said = verdict(run, findings)
    return f"{said[0].upper()}{said[1:]}."


def _finding(finding: Finding) -> str:
    known = EXPLANATIONS.get(finding.code)
    head = f"{_SIGNS[finding.severity]} {known.title if known else finding.code}"
    where = f"{finding.severity} {finding.code}, {steps(finding.first_step, finding.last_step)}: {_named(finding)}"
    return (
        f"<p><strong>{_text(head)}</strong> ({_text(where)})<br>"
        f"{_text(finding.message)}<br><em>What to change:</em> {_text(finding.hint)}</p>"
    )


def _named(finding: Finding) -> str:
    if not finding.layers:
        return "the whole net"
    more = len(finding.layers) - _LAYERS_NAMED
    return ", ".join(finding.layers[:_LAYERS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _text(text: str) -> str:
    return f"<bdi>{escape(one_line(text))}</bdi>"
