"""Names: harmless to look at, short enough, found by a search, and folded into modules."""

import random
import sys
import unicodedata
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest

from gradscope.patterns import NamePatterns
from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

NAMES = (
    "", "encoder", "encoder.0", "encoder.0.norm", "encoder.10.attention.norm", "encoder.blocks.0.norm1",
    "head", "head.linear", "(odd) [name]+^$|{x}\\", "a\nb", "größe.ÄÖ", "\U0001f525.0", "0", "12.conv.inner.weight",
)  # fmt: skip


@pytest.fixture(scope="module")
def names(module_of: Callable[[str], Module]) -> Module:
    return module_of("names.js")


def layers(*given: str) -> list[dict[str, str]]:
    return [{"name": name} for name in given]


def fold(level: int = 0, *exceptions: str) -> dict[str, Any]:
    return {"level": level, "except": list(exceptions)}


def test_every_character_that_steers_a_line_can_be_seen(names: Module) -> None:
    steering = [
        chr(i)
        for i in range(sys.maxunicode + 1)
        if unicodedata.category(chr(i)) in ("Cc", "Cf", "Zl", "Zp")
        or unicodedata.bidirectional(chr(i)) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    assert {"\n", "\x00", "\u202e", "\u2066", "\u200f", "\ufeff"} <= set(steering)
    left = names.run("(m, characters) => characters.filter((one) => m.visible(`a${one}b`) !== 'a\ufffdb')", steering)
    assert [f"U+{ord(one):04X}" for one in left] == []


def test_what_is_no_whole_character_can_be_seen(names: Module) -> None:
    assert names.run("(m) => m.visible('a\\ud800b') + m.visible('\\udcff')") == "a\ufffdb\ufffd"


@pytest.mark.parametrize("name", ["encoder.0.conv", "größe ÄÖ", "\U0001f525 \u05d0\u05d1", "a-b_c(d)"])
def test_letters_stay_as_they_are(name: str, names: Module) -> None:
    assert names.call("visible", name) == name


@pytest.mark.parametrize(
    ("name", "letters", "short"),
    [
        ("encoder.blocks.3.conv.weight", 28, "encoder.blocks.3.conv.weight"),
        ("encoder.blocks.3.conv.weight", 23, "encoder.….3.conv.weight"),
        ("encoder.blocks.3.conv.weight", 22, "encoder.….3.….weight"),
        ("encoder.blocks.3.conv.weight", 14, "….3.….weight"),
        ("a.bbbb.cccc.d", 6, "a.….d"),
        ("12.conv.inner.weight", 11, "12.….weight"),
        ("12.conv.inner.weight", 10, "12.…weight"),
        ("a\u202eb", 9, "a\ufffdb"),
        ("abcdefghij", 7, "ab…ghij"),
        ("abcdefghij", 1, "…"),
        ("", 0, ""),
    ],
)
def test_names_lose_the_middle_first(name: str, letters: int, short: str, names: Module) -> None:
    assert names.call("clipped", name, letters) == short


def test_no_short_name_is_too_wide_and_what_tells_siblings_apart_goes_last(names: Module) -> None:
    rng = random.Random(0)
    parts = ["encoder", "blocks", "0", "17", "conv", "weight", "größe", "x" * 40, "\U0001f525"]
    for _ in range(300):
        name, width = ".".join(rng.choices(parts, k=rng.randint(1, 8))), rng.randint(1, 60)
        short = names.call("clipped", name, width)
        assert len(short) <= width, (name, width)
        kept = [part for part in name.split(".")[:-1] if part.isdigit()] + [name.split(".")[-1]]
        if len(name.split(".")) > 1 and len("….".join(["", *(f"{part}." for part in kept)])) - 1 <= width:
            assert [part for part in short.split(".")[:-1] if part.isdigit()] == kept[:-1], (name, width)
            assert short.split(".")[-1] == kept[-1], (name, width)


def test_names_are_shortened_to_the_pixel_not_to_the_letter(names: Module) -> None:
    measured = "(m, width) => m.shortened('iiii.WWWW.iiii', width, (t) => t.length + 9 * (t.split('W').length - 1))"
    assert names.run(measured, 50) == "iiii.WWWW.iiii"
    assert names.run(measured, 49) == "iiii.….iiii"


SEARCHES = [
    "", "  ", "*", "encoder.*", "*.norm", "*norm*", "encoder.?", "encoder.?.norm !*.0.*", "!*.norm", "!encoder*",
    "*norm? !encoder.1*", "head encoder", "?", "??", "*ö*.*", "?.0", "!", "*[*", "*(odd)*", "*+^$|{x}\\", "a?b",
    "*.*.*.*", "** !**.**",
]  # fmt: skip


@pytest.mark.parametrize("search", SEARCHES)
def test_patterns_find_what_they_choose_in_python(search: str, names: Module) -> None:
    """As `GradScope(layers=...)` reads them; there a word without a wildcard is a whole name."""
    patterns = [word if set(word) & {"*", "?"} else f"*{word}*" for word in search.split() if word != "!"]
    literal = tuple(pattern.replace("[", "[[]") for pattern in patterns)  # a search knows no sets of letters
    expected = [name for name in NAMES if NamePatterns(literal)(name)]
    assert names.run("(m, search, all) => all.filter(m.finder(search))", search, NAMES) == expected


def test_wildcards_are_those_of_a_shell(names: Module) -> None:
    rng = random.Random(5)
    patterns = ["".join(rng.choices("ab.*?", k=rng.randint(0, 7))) + "*" for _ in range(3000)]
    cases = [(pattern, "".join(rng.choices("ab.", k=rng.randint(0, 9)))) for pattern in patterns]
    cases += [(pattern[:-1] + "b", name + "b") for pattern, name in cases]
    cases = [(pattern, name) for pattern, name in cases if set(pattern) & {"*", "?"}]
    found = names.run("(m, cases) => cases.map(([pattern, name]) => m.finder(pattern)(name))", cases)
    assert found == [fnmatchcase(name, pattern) for pattern, name in cases]
    assert 500 < sum(found) < len(found) - 500


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("norm", ["Encoder.Norm", "x.norm1"]),
        ("NORM", ["Encoder.Norm", "x.norm1"]),
        ("!norm", ["head"]),
        ("head,encoder", ["Encoder.Norm", "head"]),
        ("encoder.norm", ["Encoder.Norm"]),
        ("encoderxnorm", []),
        ("e*.n*", ["Encoder.Norm"]),
        (".", ["Encoder.Norm", "x.norm1"]),
    ],
)
def test_a_word_is_found_anywhere_in_large_or_small_letters(search: str, found: list[str], names: Module) -> None:
    given = ["Encoder.Norm", "x.norm1", "head"]
    assert names.run("(m, search, all) => all.filter(m.finder(search))", search, given) == found


def test_a_search_with_many_wildcards_does_not_halt_the_page(names: Module) -> None:
    search, name = "*a" * 25 + "*b", "a" * 2000
    assert names.run("(m, search, name) => [m.finder(search)(name), m.finder(search)(`${name}b`)]", search, name) == [
        False,
        True,
    ]


def test_modules_are_the_dotted_beginnings(names: Module) -> None:
    assert names.call("modulesOf", "a.b.c") == ["a", "a.b"]
    assert names.call("modulesOf", "a") == names.call("modulesOf", "") == []
    assert names.call("deepest", layers("a", "", "a.b.c", "x.y")) == 2
    assert names.call("deepest", []) == 0


def rows(names: Module, given: Sequence[str], indices: Sequence[int], folded: dict[str, Any]) -> list[Any]:
    found = names.call("rowsOf", layers(*given), list(indices), folded)
    return [(row["name"], row["module"], row["layers"]) for row in found]


NET = ("stem", "blocks.0.conv", "blocks.0.norm", "blocks.1.conv", "blocks.1.norm", "blocks", "head.linear")


def test_unfolded_each_layer_is_a_row_in_model_order(names: Module) -> None:
    assert rows(names, NET, [0, 2, 5], fold()) == [(NET[i], None, [i]) for i in (0, 2, 5)]
    assert rows(names, NET, [], fold(1)) == []


def test_folded_the_layers_of_a_module_share_a_row_and_lone_ones_stay(names: Module) -> None:
    assert rows(names, NET, range(7), fold(1)) == [
        ("stem", None, [0]),
        ("blocks", "blocks", [1, 2, 3, 4]),
        ("blocks", None, [5]),  # the module's own parameters
        ("head.linear", None, [6]),
    ]
    assert [row[1] for row in rows(names, NET, range(7), fold(2))] == [None, "blocks.0", "blocks.1", None, None]


def test_exceptions_are_the_other_way_round(names: Module) -> None:
    assert [row[1] for row in rows(names, NET, range(5), fold(0, "blocks.1"))] == [None, None, None, "blocks.1"]
    assert [row[1] for row in rows(names, NET, range(5), fold(2, "blocks.1"))] == [None, "blocks.0", None, None]
    assert [row[1] for row in rows(names, NET, range(5), fold(2, "blocks"))] == [None, "blocks"]


def test_a_module_of_which_one_layer_is_found_is_not_folded(names: Module) -> None:
    assert rows(names, NET, [1, 3, 4], fold(2)) == [
        ("blocks.0.conv", None, [1]),
        ("blocks.1", "blocks.1", [3, 4]),
    ]


def test_every_layer_is_in_exactly_one_row(names: Module) -> None:
    rng = random.Random(1)
    for _ in range(60):
        given = [".".join(rng.choices("abc01", k=rng.randint(1, 4))) for _ in range(20)]
        folded = fold(rng.randint(0, 3), *rng.sample(["a", "b", "a.b", "c.0.1"], 2))
        indices = sorted(rng.sample(range(20), rng.randint(0, 20)))
        found = rows(names, list(dict.fromkeys(given)), [i for i in indices if i < len(set(given))], folded)
        assert sorted(i for row in found for i in row[2]) == [i for i in indices if i < len(set(given))]


@pytest.mark.parametrize(
    ("name", "folded", "module"),
    [
        ("blocks.0.conv", fold(), "blocks.0"),
        ("blocks.0.conv", fold(0, "blocks.0"), "blocks"),
        ("blocks.0", fold(2), "blocks"),
        ("head.linear", fold(), None),
        ("stem", fold(), None),
    ],
)
def test_what_can_be_folded_is_the_innermost_module(
    name: str, folded: dict[str, Any], module: str | None, names: Module
) -> None:
    assert names.call("foldable", name, layers(*NET), folded) == module


def test_a_layer_of_two_runs_is_not_two_layers(names: Module) -> None:
    assert names.call("foldable", "head.linear", layers(*NET, *NET), fold()) is None


def test_toggling_twice_leaves_all_as_it_was(names: Module) -> None:
    assert names.call("toggled", fold(1, "x"), "blocks") == fold(1, "x", "blocks")
    assert names.call("toggled", fold(1, "x", "blocks"), "x") == fold(1, "blocks")
    assert names.call("isFolded", "blocks", fold(1))
    assert not names.call("isFolded", "blocks", fold(1, "blocks"))
