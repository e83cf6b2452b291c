"""What the user is looking at, and that a link brings it back, whole or mangled."""

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

HOSTILE = [
    "a,b", "a&b=c", "100%", "%41", "%", "#top", "p.gradscope.runs", "\U0001f525 \u05d0\u202e\u200f",
    "a/b\\c", "+ +", "'\"<b>", "a\nb\x00", "ünï", "-", "null", "__proto__", ".", "0-5",
]  # fmt: skip

ROUND_TRIP = """async (m, values) => {
  const host = await import('/host.js');
  history.replaceState(null, '', '#');
  host.writeLink(m.toLink({...m.INITIAL, ...values}));
  return {...m.INITIAL, ...m.fromLink(host.readLink())};
}"""


@pytest.fixture(scope="module")
def state(module_of: Callable[[str], Module]) -> Module:
    return module_of("state.js")


def some_state(rng: random.Random) -> dict[str, Any]:
    first = rng.randint(0, 10**12)
    return {
        "runs": rng.sample(HOSTILE, rng.randint(0, 5)),
        "metric": rng.choice(["grad_norm", "act_mean", *HOSTILE]),
        "layer": rng.choice([None, "", "encoder.0", *HOSTILE[:-2]]),
        "step": rng.choice([None, 0, 7, 10**15 - 1]),
        "zoom": rng.choice([None, [0, 1], [first, first + rng.randint(1, 10**6)]]),
        "fold": {"level": rng.choice([0, 1, 12]), "except": rng.sample(HOSTILE, rng.randint(0, 3))},
        "search": rng.choice(["", "encoder.* !*.norm", *HOSTILE]),
        "byContract": rng.random() < 0.5,
        "finding": rng.choice([None, "run:a:dead_relu:310", *HOSTILE]),
    }


def test_an_address_brings_back_what_was_looked_at(state: Module) -> None:
    rng = random.Random(0)
    given = [some_state(rng) for _ in range(150)]
    one_by_one = f"""async (m, given) => {{
      const found = [];
      for (const values of given) found.push(await ({ROUND_TRIP})(m, values));
      return found;
    }}"""
    assert state.run(one_by_one, given) == given


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_brought_back(name: str, state: Module) -> None:
    initial = state.run("(m) => m.INITIAL")
    given = {**initial, "runs": [name], "search": name, "fold": {"level": 0, "except": [name]}}
    assert state.run(ROUND_TRIP, given) == given


def test_the_beginning_needs_no_words(state: Module) -> None:
    assert not any(state.run("(m) => m.toLink(m.INITIAL)").values())
    assert state.call("fromLink", {}) == {}
    state.run(ROUND_TRIP, {})
    assert "#" not in state.page.url


def test_a_link_reads_as_what_it_means(state: Module) -> None:
    state.run(ROUND_TRIP, {"runs": ["selu/v 1"], "layer": "net.0", "zoom": [10, 250]})
    assert unquote(state.page.url.split("#")[1]) == "runs=selu%2Fv%201&layer=net.0&zoom=10-250"


def test_half_a_character_does_not_break_a_link(state: Module) -> None:
    """A folder whose name is no UTF-8 reaches the page as such."""
    half = """(m) => m.toLink({...m.INITIAL, runs: ['a\\udcff'], layer: 'b\\ud800', search: '\\udfff',
      fold: {level: 0, except: ['\\ud800']}})"""
    link = state.run(half)
    assert link["runs"] == "a%EF%BF%BD"
    assert link["layer"] == "b\ufffd"
    assert state.call("fromLink", link)["search"] == "\ufffd"


MANGLED = [
    ({"zoom": "5-2"}, {}),
    ({"zoom": "5-5"}, {}),
    ({"zoom": "-1-5"}, {}),
    ({"zoom": "1-"}, {}),
    ({"zoom": "1e3-2e3"}, {}),
    ({"zoom": "1-" + "9" * 400}, {}),
    ({"step": "-3"}, {}),
    ({"step": "NaN"}, {}),
    ({"step": "1.5"}, {}),
    ({"step": "9" * 16}, {}),
    ({"colours": "bounds"}, {}),
    ({"runs": ""}, {}),
    ({"unknown": "1"}, {}),
    ({"runs": "a%2,b"}, {"runs": ["a%2", "b"]}),
    ({"runs": "%E0%A4%A,b"}, {"runs": ["%E0%A4%A", "b"]}),
    ({"fold": "x,a"}, {"fold": {"level": 0, "except": ["a"]}}),
    ({"fold": "999"}, {"fold": {"level": 0, "except": []}}),
    ({"fold": "2,%"}, {"fold": {"level": 2, "except": ["%"]}}),
    ({"search": "x" * 5000}, {"search": "x" * 1000}),
    ({"runs": ",".join("r" * 5000)}, {"runs": ["r"] * 100}),
]


@pytest.mark.parametrize(("link", "values"), MANGLED, ids=[json.dumps(link)[:40] for link, _ in MANGLED])
def test_of_a_mangled_link_what_can_be_read_is_read(
    link: dict[str, str], values: dict[str, Any], state: Module
) -> None:
    assert state.call("fromLink", link) == values


def test_an_address_cut_anywhere_can_be_read(state: Module) -> None:
    state.run(ROUND_TRIP, {"runs": ["\U0001f525,ü"], "layer": "größe.0", "zoom": [10, 250], "search": "%&="})
    whole = state.page.url.split("#")[1]
    read = """async (m, whole) => {
      const {readLink} = await import('/host.js');
      return Array.from({length: whole.length + 1}, (_, end) => {
        history.replaceState(null, '', `#${whole.slice(0, end)}`);
        return m.fromLink(readLink());
      });
    }"""
    found = state.run(read, whole)
    assert all(set(values) <= {"runs", "layer", "zoom", "search"} for values in found)
    assert found[-1] == {"runs": ["\U0001f525,ü"], "layer": "größe.0", "zoom": [10, 250], "search": "%&="}
    assert found[0] == {}


def test_only_a_change_is_told(state: Module) -> None:
    told = """(m) => {
      const told = [];
      const state = new m.State((values) => told.push(values.search));
      state.set({search: 'a'});
      state.set({search: 'a', step: null});
      state.set({step: NaN});
      state.set({step: NaN});
      return [told, state.values.metric, m.INITIAL.search];
    }"""
    assert state.run(told) == [["a", "a"], "grad_norm", ""]
