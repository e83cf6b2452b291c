"""Findings that are known already, as a file; and which of today's are new."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradscope.records import Finding, Severity
from gradscope.wording import counted

FORMAT_VERSION = 1


class Known(NamedTuple):
    """A finding of a run that is known; without layers it is of the whole net."""

    run: str
    code: str
    layers: tuple[str, ...]


class DamagedBaselineError(ValueError):
    """A text that is no baseline; the message, one line, says why."""


@dataclass(frozen=True)
class Judged:
    """Today's findings of several runs, beside what was known."""

    findings: Sequence[tuple[str, Finding]] = ()
    """The name of a run and a finding, in the order of the runs, the most severe of each first."""
    known: frozenset[int] = frozenset()
    """Indices into `findings` of those that were known."""
    gone: Sequence[Known] = ()
    """What was known and is found no more: of a finding that is still there, the layers that are no longer hit."""
    missing_runs: tuple[str, ...] = ()
    """Runs with known findings that are not here to be judged."""
    fails: frozenset[int] = field(default_factory=frozenset)
    """Indices of those that are new and severe enough to fail."""


def judged(
    findings: Mapping[str, Sequence[Finding]], baseline: Sequence[Known], fail_on: Severity = Severity.WARNING
) -> Judged:
    """Return which of the `findings`, by the name of their run, are new, known or gone.

    A finding is known if its code is known for its run and all of its layers are; one of the whole net, which names no
    layers, if the baseline has it of the whole net, which then covers the code's layers as well. Remarks are no
    disease: a finding that has become one is gone.
    """
    pairs = [(run, finding) for run, several in findings.items() for finding in several]
    known = frozenset(i for i, (run, finding) in enumerate(pairs) if _is_known(run, finding, baseline))
    fails = frozenset(i for i, (_, finding) in enumerate(pairs) if finding.severity >= fail_on and i not in known)
    gone = [left for entry in baseline if entry.run in findings and (left := _gone(entry, findings[entry.run]))]
    missing = tuple(dict.fromkeys(entry.run for entry in baseline if entry.run not in findings))
    return Judged(pairs, known, gone, missing, fails)


def verdict(judged: Judged, runs: int, fail_on: Severity) -> str:
    """Return in one line whether the check of so many `runs` is passed, with the numbers behind it."""
    noun = "new critical finding" if fail_on is Severity.CRITICAL else "new finding"
    lighter = len(judged.findings) - len(judged.fails | judged.known)
    counts = {"lighter": lighter, "known": len(judged.known), "gone": len(judged.gone)}
    rest = "".join(f", {number:,} {what}" for what, number in counts.items() if number)
    found = f"failed: {counted(len(judged.fails), noun)}" if judged.fails else f"passed: no {noun}"
    return f"{found} in {counted(runs, 'run')}{rest}"


def baseline_of(findings: Mapping[str, Sequence[Finding]]) -> list[Known]:
    """Return the diseases among `findings`, all but remarks, as what is known from now on."""
    return [
        Known(run, finding.code, finding.layers)
        for run, several in findings.items()
        for finding in several
        if finding.severity >= Severity.WARNING
    ]


def written(baseline: Sequence[Known]) -> str:
    """Return `baseline` as the text of a file: the same for the same findings, a line each."""
    entries = ",\n".join(f"    {json.dumps(entry._asdict())}" for entry in baseline)
    body = f"[\n{entries}\n  ]" if entries else "[]"
    return f'{{\n  "format": "gradscope-baseline",\n  "version": {FORMAT_VERSION},\n  "findings": {body}\n}}\n'


def read(text: str) -> list[Known]:
    """Return the baseline that `text` holds.

    Raises:
        DamagedBaselineError: it holds none, or one in a format that came after this version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedBaselineError("it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != "gradscope-baseline":
        raise DamagedBaselineError("it is no baseline of gradscope")
    version, entries = content.get("version"), content.get("findings")
    if type(version) is int and version > FORMAT_VERSION:
        raise DamagedBaselineError(
            f"it has format {version}, written by a newer GradScope; this one reads up to {FORMAT_VERSION}"
        )
    if type(version) is not int or version < 1 or not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise DamagedBaselineError("it is damaged")
    return [Known(entry["run"], entry["code"], tuple(entry["layers"])) for entry in entries]


def _is_known(run: str, finding: Finding, baseline: Sequence[Known]) -> bool:
    entries = [entry for entry in baseline if (entry.run, entry.code) == (run, finding.code)]
    if any(not entry.layers for entry in entries):
        return True
    layers = {layer for entry in entries for layer in entry.layers}
    return bool(finding.layers) and layers.issuperset(finding.layers)


def _gone(entry: Known, findings: Sequence[Finding]) -> Known | None:
    still = [f for f in findings if f.code == entry.code and f.severity >= Severity.WARNING]
    if not still:
        return entry
    if not entry.layers or any(not finding.layers for finding in still):
        return None
    hit = {layer for finding in still for layer in finding.layers}
    left = tuple(layer for layer in entry.layers if layer not in hit)
    return Known(entry.run, entry.code, left) if left else None


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("run", "code")):
        return False
    layers = entry.get("layers")
    return isinstance(layers, list) and all(isinstance(layer, str) for layer in layers)
