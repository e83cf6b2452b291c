"""The file that ``gradscope report`` writes, in a browser without a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from gradscope import cli
from tests.end_to_end.complaints import Complaints
from tests.end_to_end.gradscope_page import HEIGHT, WIDTH, GradScopePage


class ReportPage(GradScopePage):
    """The same page, standing alone in a file."""

    def open_link(self, fragment: str) -> None:
        address = self.page.url.partition("#")[0]
        self.page.goto("about:blank")
        self.page.goto(f"{address}#{fragment}")
        self.settle()


@contextmanager
def opened_report(browser: Browser, path: Path, **options: Any) -> Iterator[ReportPage]:
    """Open the file at `path` without a network; at the end nothing but the file has been asked for."""
    context = {"viewport": {"width": WIDTH, "height": HEIGHT}, "color_scheme": "light", "offline": True, **options}
    with browser.new_context(**context) as opened:
        complaints = Complaints(opened, host="")
        page = opened.new_page()
        page.goto(path.as_uri())
        report = ReportPage(page, page.main_frame, complaints)
        report.settle()
        yield report
        complaints.check()
        asked = {url.partition("#")[0] for url in complaints.requests} - {"about:blank"}
        assert asked == {path.as_uri()}


def write_report(logdir: Path, path: Path) -> Path:
    assert cli.main(["report", str(logdir), "-o", str(path)]) == 0
    return path
