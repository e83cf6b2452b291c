"""The page as one file that needs no server and no network: style, modules and data stand in it."""

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

import numpy as np

from gradscope import __version__
from gradscope.cells import measured_cells
from gradscope.dashboard import content
from gradscope.dashboard.bundle import bundled
from gradscope.dashboard.content import STATIC, Content
from gradscope.records import Finding, Floats, Run
from gradscope.rules import diagnose
from gradscope.rules.thinning import thinned
from gradscope.summary import in_order_shown

RECORDS = 1000
"""Records of a run that a file holds at most; findings are those of all."""

_MANTISSA_BITS = 12
"""Of 23: four significant digits, which is what the page shows of a number."""

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="gradscope $version">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>$style</style>
</head>
<body>
<noscript>This report draws its pictures with JavaScript, from the data in this file; it loads nothing else.</noscript>
<script type="application/json" id="gradscope-data">$data</script>
<script type="module">$script</script>
</body>
</html>
""")

_ENTRY = "embedded.js"

_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; style-src {}; script-src {}"
"""The one style and the one script are told by their digests: no other, whoever wrote it, is ever heard."""


def html_report(runs: Mapping[str, Run]) -> str:
    """Return a page of HTML that shows `runs`, by name, as the tab in TensorBoard does; no runs give an empty page.

    Of a run with more than `RECORDS` records a choice is drawn, and numbers keep four significant digits. The
    findings are those of the whole run.
    """
    data: Content = {"runs": [], "summaries": {}, "records": {}}
    for name, run in runs.items():
        findings = diagnose(run)
        drawn = thinned(run, RECORDS)
        data["runs"].append(_listed(name, run, findings))
        data["summaries"][name] = _summary(run, drawn, findings)
        data["records"][name] = _records(drawn)
    style, script = _read("style.css"), f"{bundled(_ENTRY, _read)}\nawait gradscopeModules['{_ENTRY}'].render();\n"
    return _PAGE.substitute(
        version=__version__,
        policy=escape(_POLICY.format(_digest(style), _digest(script))),
        title=escape(_title(runs)),
        style=style,
        script=script,
        data=_script_text(content.to_json(data).decode()),
    )


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(runs: Mapping[str, Run]) -> str:
    return f"GradScope: {next(iter(runs))}" if len(runs) == 1 else f"GradScope: {len(runs)} runs"


def _listed(name: str, run: Run, findings: Sequence[Finding]) -> Content:
    return {
        "name": name,
        "version": "",
        "last_step": int(run.steps[-1]) if len(run.steps) else None,
        "last_wall_time": float(run.wall_times[-1]) if len(run.steps) else 0.0,
        "severity": content.severity(run, findings),
        "metrics": [content.metric(column) for column in in_order_shown(run.columns)],
    }


def _summary(run: Run, drawn: Run, findings: Sequence[Finding]) -> Content:
    # The curves are those of the records that are drawn, the verdict is that of all.
    return {**content.summary(run, findings), **content.curves(drawn)}


def _records(run: Run) -> Content:
    cells = {name: measured_cells(run, name) for name in run.metrics}
    return {
        "steps": run.steps.tolist(),
        "layers": [content.layer(layer) for layer in run.layers],
        "metrics": {name: _packed(values) for name, values in cells.items() if not np.isnan(values).all()},
    }


def _packed(values: Floats) -> Content:
    """Return the layers that have the metric and their numbers: four planes of bytes, by gzip, in base 64."""
    rows = np.flatnonzero(~np.isnan(values).all(axis=0))
    numbers = _rounded(values[:, rows].T)
    planes = np.ascontiguousarray(numbers.reshape(-1, 1).view(np.uint8).T)
    packed = gzip.compress(planes.tobytes(), compresslevel=9, mtime=0)
    return {"rows": rows.tolist(), "packed": base64.b64encode(packed).decode()}


def _rounded(values: Floats) -> Floats:
    """Return `values` rounded to `_MANTISSA_BITS`, which packs to half; NaN, infinities and the very smallest stay."""
    bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    unit = 1 << (23 - _MANTISSA_BITS)
    # Each number has its type from here on: NumPy 1 makes an int64 of a uint32 and a bare integer.
    half, mask = np.uint32(unit // 2), np.uint32(2**32 - unit)
    rounded = ((bits + half) & mask).view("<f4")
    # Subnormal numbers have fewer bits than that: rounded they would become zeros, which mean something else.
    usual = np.isfinite(rounded) & (np.abs(values) >= np.finfo(np.float32).tiny)
    kept: Floats = np.where(usual, rounded, values)
    return kept


def _script_text(text: str) -> str:
    # Within a script element nothing but its own end tag, or a comment, is read as HTML.
    return text.replace("<", "\\u003c")
