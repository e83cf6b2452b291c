"""Findings as SARIF 2.1.0 (OASIS standard, Static Analysis Results Interchange Format)."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from gradscope import __version__
from gradscope.check.baseline import Judged
from gradscope.explanations import EXPLANATIONS, Explanation
from gradscope.records import Finding, Severity

VERSION = "2.1.0"
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Severity.CRITICAL: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif(judged: Judged, folders: Mapping[str, PurePath], with_baseline: bool) -> dict[str, Any]:
    """Return the log of one run of the tool, as what JSON can hold.

    The rules are all findings that there are, as `gradscope.explanations` tells them. A result lies in the directory of
    its run (`folders`, by the name of the run), its layers are logical locations. With a baseline each says whether it
    is ``new`` or ``unchanged``.
    """
    codes = list(EXPLANATIONS)
    results = []
    for index, (run, finding) in enumerate(judged.findings):
        result = _result(run, finding, folders[run], codes)
        if with_baseline:
            result["baselineState"] = "unchanged" if index in judged.known else "new"
        results.append(result)
    rules = [_rule(explanation) for explanation in EXPLANATIONS.values()]
    driver = {"name": "gradscope", "version": __version__, "semanticVersion": __version__, "rules": rules}
    return {"$schema": SCHEMA, "version": VERSION, "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(explanation: Explanation) -> dict[str, Any]:
    cures = "\n".join(f"- {cure}" for cure in explanation.cures)
    return {
        "id": explanation.code,
        "name": "".join(part.capitalize() for part in explanation.code.split("_")),
        "shortDescription": {"text": explanation.title},
        "fullDescription": {"text": explanation.what},
        "help": {"text": f"{explanation.measured}\n\nWhat to do, most likely to help first:\n{cures}"},
    }


def _result(run: str, finding: Finding, folder: PurePath, codes: list[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"ruleId": finding.code}
    if finding.code in codes:
        rule["ruleIndex"] = codes.index(finding.code)
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(folder)}}}
    if finding.layers:
        place["logicalLocations"] = [{"fullyQualifiedName": layer, "kind": "module"} for layer in finding.layers]
    return {
        **rule,
        "level": LEVELS[finding.severity],
        "message": {"text": _without_links(f"{finding.message} {finding.hint}")},
        "locations": [place],
        "partialFingerprints": {"gradscopeFinding/v1": f"{run}/{finding.code}"},
        "properties": {
            "run": run,
            "firstStep": finding.first_step,
            "lastStep": finding.last_step,
            "cause": finding.cause,
        },
    }


def _without_links(text: str) -> str:
    # In a plain message `[text](target)` is a link (§3.11.6), and a layer may be called like one.
    return text.replace("](", "] (")


def _uri(folder: PurePath) -> str:
    path = quote(folder.as_posix(), errors="replace")
    return f"file://{path}" if folder.is_absolute() else path
