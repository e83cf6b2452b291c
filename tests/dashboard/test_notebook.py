"""What a notebook shows of a run: without scripts, with any names, for any run."""

import base64
import re
from html.parser import HTMLParser

import pytest

from gradscope import GradScope
from gradscope.dashboard.notebook import notebook_html
from gradscope.records import Layer, Run
from gradscope.rules import diagnose
from tests.hand_written_runs import empty_run, run_of, sick_run, sound_run


class Tags(HTMLParser):
    """Collects the names of all elements, and the text outside of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_verdict_the_findings_and_a_picture() -> None:
    run = sick_run()
    page = notebook_html(run)
    words = Tags(page).words
    findings = diagnose(run)
    assert len(findings) >= 1
    for finding in findings:
        assert finding.message in words
        assert finding.hint in words
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_a_sound_run_is_said_to_be() -> None:
    assert "No disease found in 5 layers over 40 records." in Tags(notebook_html(sound_run())).words


@pytest.mark.parametrize(
    ("run", "words"),
    [(empty_run(), "○ Nothing was recorded."), (sound_run(records=1), "too few to tell how they develop")],
    ids=["empty", "one record"],
)
def test_any_run_can_be_shown(run: Run, words: str) -> None:
    shown = Tags(notebook_html(run)).words
    assert words in shown
    assert shown.startswith("○")


def test_names_are_text() -> None:
    name = "<script>alert(1)</script>\n\u202e<img src=x onerror=alert(1)>"
    page = notebook_html(run_of(name, [Layer(name, name, "linear")], {"grad_norm": [[1e-9]], "nonfinite": [[1]]}))
    assert set(Tags(page).names) <= {"div", "p", "strong", "bdi", "img", "br", "em"}
    assert Tags(page).names.count("img") == 1


def test_a_notebook_finds_it_on_a_run_and_on_the_callback() -> None:
    run = sick_run()
    assert run._repr_html_() == notebook_html(run)
    assert "Nothing was recorded." in Tags(GradScope()._repr_html_()).words
