"""What a log holds is data: nothing in GradScope could make code, markup, a formula or a link of it."""

import ast
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import markdown  # type: ignore[import-untyped]
import pytest

import gradscope
from gradscope import Finding, Layer, Severity
from gradscope.check.baseline import judged
from gradscope.check.sarif import sarif
from gradscope.export.text import csv_lines
from gradscope.export.tidy import Table
from gradscope.lightning.verdicts import as_markdown
from tests.hand_written_runs import run_of

PACKAGE = Path(gradscope.__file__).parent

# ------------------------------------------------------------------ nothing that is read is run

MAKES_CODE = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "code", "pty", "runpy",
    "eval", "exec", "compile", "__import__", "system", "popen", "full_load", "unsafe_load", "load_all", "from_pickle",
    "read_pickle", "import_module", "torch.load", "np.load", "numpy.load", "yaml.load",
}  # fmt: skip
ALLOWED = {
    ("cli/script.py", "exec"): "runs the user's own script, named on the command line",
    ("cli/script.py", "compile"): "the same",
    ("__init__.py", "import_module"): "of a table in the same file",
    ("lightning/packages.py", "import_module"): "of a table in the same file",
    ("export/tables.py", "import_module"): "of names in the same file",
}
RAW_IN_A_PAGE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
    r"|createContextualFragment|setTimeout\(\s*['\"`]"
)


def dangerous(source: str) -> set[str]:
    """What in `source` is called, or imported, that makes code of data."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            names |= {called, called.rpartition(".")[2]} - ({"compile"} if "." in called else set())
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names & MAKES_CODE


def test_nothing_that_is_read_is_unpickled_or_executed() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in dangerous(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "source", ["import pickle", "from pickle import loads", "eval(x)", "np.load(f)", "torch.load(f)", "yaml.load(f)"]
)
def test_the_search_above_would_find_it(source: str) -> None:
    assert dangerous(source)


def test_nothing_is_written_into_a_page_as_markup() -> None:
    scripts = list((PACKAGE / "dashboard" / "static").glob("*.js"))
    assert len(scripts) > 20
    for path in scripts:
        assert not RAW_IN_A_PAGE.findall(path.read_text(encoding="utf-8")), path.name


# ------------------------------------------------------------------ names in what is written

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "'=1", "=cmd|'/C calc'!A0", "＝1", '=HYPERLINK("x")']


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_a_csv_file_is_a_formula(name: str) -> None:
    run = replace(run_of("r", (Layer(name, name, name),), {"grad_norm": [[-0.5]]}, records=1), name=name)
    text = "".join(csv_lines([Table(run)]))
    head, *lines = csv.reader(io.StringIO(text))
    assert len(lines) == 1
    cells = dict(zip(head, lines[0], strict=True))
    for column in ("run", "layer", "type", "kind"):
        assert cells[column].lstrip(" ")[0] in "'\\", "an apostrophe, or an escape that is text by itself"
    assert cells["value"] == "-0.5", "a number is a number"


def test_other_names_stay_as_they_are() -> None:
    run = run_of("a-b", (Layer("net.0=x", "Linear", "linear"),), {"grad_norm": [[1.0]]}, records=1)
    assert "".join(csv_lines([Table(run)])).splitlines()[1].startswith("a-b,0,0.0,net.0=x,Linear,linear,")


HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://e.com/x.png)",
    "**bold** _it_", "a\n# head", "`code`", "``<b>``", "\\`<i>`", "http://example.com", "<http://e.com>", "&lt;b&gt;",
    "a|b",
]  # fmt: skip


def finding(text: str) -> Finding:
    return Finding("dead_relu", Severity.CRITICAL, (text,), 0, 9, f"Half of {text} is dead.", f"Look at {text}.")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_of_markdown_shows_names_letter_for_letter(text: str) -> None:
    page = as_markdown(run_of("r", (), {}, records=1), [finding(text)])
    html = markdown.markdown(page, extensions=["tables"])
    tags = set(re.findall(r"<\s*/?\s*(\w+)", html))
    assert tags == {"h2", "p", "strong", "em", "code"}, html
    assert len(re.findall("<code>", html)) == 1
    assert len(re.findall("<em>", html)) == 1


def test_a_message_of_sarif_holds_no_link() -> None:
    findings = judged({"r": [finding("[x](javascript:alert(1))")]}, [])
    log = json.dumps(sarif(findings, {"r": PurePosixPath("r")}, with_baseline=False))
    assert "[x] (javascript:alert(1))" in log
    assert "](" not in json.loads(log)["runs"][0]["results"][0]["message"]["text"]
