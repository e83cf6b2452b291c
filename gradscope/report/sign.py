"""The sign of a verdict."""

from collections.abc import Sequence

from rich.text import Text

from gradscope.records import Finding, Run
from gradscope.report.page import STYLES, Page
from gradscope.summary import worst_severity


def sign_of(page: Page, run: Run, findings: Sequence[Finding]) -> Text:
    """Return the sign of the worst of `findings`; a run without any is ticked off only if it could be judged."""
    worst = worst_severity(findings)
    if worst is None and len(run.steps) < run.thresholds.minimum_records:
        return Text(page.glyphs.unjudged, style="dim")
    return Text(page.glyphs.signs[worst], style=STYLES[worst])
