"""The sign of a verdict."""

from collections.abc import Sequence

from rich.text import Text

from gradscope.records import Finding, Run
from gradscope.report.page import STYLES, Page
from gradscope.summary import is_unjudged, worst_severity


def sign_of(page: Page, run: Run, findings: Sequence[Finding]) -> Text:
    """Return the sign of the worst of `findings`; a run without any is ticked off only if it could be judged."""
    if is_unjudged(run, findings):
        return Text(page.glyphs.unjudged, style="dim")
    worst = worst_severity(findings)
    return Text(page.glyphs.signs[worst], style=STYLES[worst])
