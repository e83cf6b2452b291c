"""Elements: what is read as text, and that what is drawn anew does not take the keyboard from its user."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

WITH_LIST = """(m, keys, now, at) => {
  const list = (names) => names.map((name) => m.element('li', {}, m.element('button', {'data-key': name}, 'open')));
  const parent = m.element('ul', {}, ...list(keys));
  document.body.append(parent);
  parent.querySelectorAll('button')[at].focus();
  m.renew(parent, ...list(now));
  const found = document.activeElement.dataset.key ?? null;
  parent.remove();
  return found;
}"""


@pytest.fixture(scope="module")
def dom(module_of: Callable[[str], Module]) -> Module:
    return module_of("dom.js")


@pytest.mark.parametrize(
    ("keys", "now", "at", "focused"),
    [
        (["a", "b", "c"], ["a", "b", "c"], 1, "b"),
        (["a", "b", "c"], ["x", "c", "b"], 1, "b"),
        (["a", "b"], ["a"], 1, None),
        (["a", "a", "a"], ["a", "a", "a"], 2, "a"),
    ],
)
def test_the_focus_stays_where_it_was(
    keys: list[str], now: list[str], at: int, focused: str | None, dom: Module
) -> None:
    assert dom.run(WITH_LIST, keys, now, at) == focused


def test_of_controls_alike_it_is_the_same_one(dom: Module) -> None:
    what = """(m) => {
      const buttons = () => ['x', 'x', 'x'].map((word) => m.element('button', {}, word));
      const parent = m.element('div', {}, ...buttons());
      document.body.append(parent);
      parent.children[2].focus();
      m.renew(parent, ...buttons());
      const at = [...parent.children].indexOf(document.activeElement);
      parent.remove();
      return at;
    }"""
    assert dom.run(what) == 2


@pytest.mark.parametrize("text", ["<b>x</b>", "<img src=x onerror=alert(1)>", "&lt;", '"'])
def test_text_is_never_markup(text: str, dom: Module) -> None:
    made: list[Any] = dom.run(
        "(m, t) => { const e = m.element('p', {}, t); return [e.textContent, e.children.length]; }", text
    )
    assert made == [text, 0]


def test_an_update_comes_only_with_something_new(dom: Module) -> None:
    what = """(m) => {
      const seen = [];
      const update = m.whenChanged((...values) => seen.push(values));
      for (const values of [[1, 'a'], [1, 'a'], [1, 'b'], [NaN, 'b'], [NaN, 'b'], [1], [1]]) update(...values);
      return seen.length;
    }"""
    assert dom.run(what) == 4
