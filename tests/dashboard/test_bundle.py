"""Modules as one: each keeps its names, and what is not understood is refused."""

import pytest

from gradscope.dashboard.bundle import bundled
from gradscope.dashboard.content import STATIC

MODULES = {
    "a.js": "import {b, c as d} from './b.js';\nimport {e} from './e.js';\n\nexport const a = [b, d, e];\n",
    "b.js": "import {\n  e,\n} from './e.js';\nconst own = e;\nexport function b() {}\nexport class c {}\n",
    "e.js": "const own = 1;\nexport async function e() {}\n",
}


def test_each_comes_once_and_behind_what_it_needs() -> None:
    assert bundled("a.js", MODULES.__getitem__) == (
        "const gradscopeModules = {};\n"
        "gradscopeModules['e.js'] = (() => {\nconst own = 1;\nasync function e() {}\n\nreturn {e};\n})();\n"
        "gradscopeModules['b.js'] = (() => {\nconst {\n  e,\n} = gradscopeModules['e.js'];\nconst own = e;\n"
        "function b() {}\nclass c {}\n\nreturn {b, c};\n})();\n"
        "gradscopeModules['a.js'] = (() => {\nconst {b, c: d} = gradscopeModules['b.js'];\n"
        "const {e} = gradscopeModules['e.js'];\n\nconst a = [b, d, e];\n\nreturn {a};\n})();"
    )


@pytest.mark.parametrize(
    "text", ["import './x.js';", "export default 1;", "export {x};", "import * as x from './x.js';", "x = import('y');"]
)
def test_any_other_way_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must import and export by name at the start of a line, got .* in x\.js"):
        bundled("x.js", {"x.js": text}.__getitem__)


def test_modules_that_need_each_other_are_refused() -> None:
    circle = {"x.js": "import {y} from './y.js';", "y.js": "import {x} from './x.js';"}
    with pytest.raises(ValueError, match=r"must not need each other, got x\.js → y\.js → x\.js"):
        bundled("x.js", circle.__getitem__)


def test_the_page_holds_nothing_that_would_end_its_script() -> None:
    text = bundled("embedded.js", lambda name: (STATIC / name).read_text(encoding="utf-8")).lower()
    assert "</script" not in text
    assert "<!--" not in text
