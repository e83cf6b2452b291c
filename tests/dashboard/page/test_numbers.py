"""How numbers are written, and where axes are marked."""

import bisect
import math
import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

GREATEST, LEAST = 3.4028234663852886e38, 1.401298464324817e-45
FLAGS = {"unit": "flags"}


@pytest.fixture(scope="module")
def numbers(module_of: Callable[[str], Module]) -> Module:
    return module_of("numbers.js")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not measured"),
        (math.nan, "not measured"),
        (math.inf, "NaN or infinite"),
        (-math.inf, "−infinite"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "−1.5"),
        (0.001, "0.001"),
        (0.00099996, "1e-3"),
        (-0.0001234, "−1.234e-4"),
        (12345.0, "12350"),
        (99999.0, "100000"),
        (123456.0, "1.235e5"),
        (100000.0, "1e5"),
        (2.5e-10, "2.5e-10"),
        (GREATEST, "3.403e38"),
        (-GREATEST, "−3.403e38"),
        (LEAST, "1.401e-45"),
    ],
)
def test_four_digits_of_any_number(value: float | None, text: str, numbers: Module) -> None:
    assert numbers.call("exact", value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.12345, "0.123"), (-2.0, "−2"), (12345.0, "12300"), (1e5, "1e5"), (-3.14e-7, "−3.1e-7"),
        (GREATEST, "3.4e38"), (LEAST, "1.4e-45"),
    ],
)  # fmt: skip
def test_axes_have_fewer_digits(value: float, text: str, numbers: Module) -> None:
    assert numbers.call("brief", value) == text


def test_what_is_written_is_the_number_to_four_digits(numbers: Module) -> None:
    rng = random.Random(0)
    values = [rng.choice((1, -1)) * rng.uniform(1, 10) * 10.0 ** rng.randint(-44, 38) for _ in range(500)]
    texts = numbers.run("(m, values) => values.map(m.exact)", values)
    assert [float(text.replace("−", "-")) for text in texts] == pytest.approx(values, rel=5.1e-4)
    assert all(re.fullmatch(r"−?\d+(\.\d+)?(e-?\d+)?", text) for text in texts)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ({"unit": "fraction"}, 0.29, "29 %"),
        ({"unit": "fraction"}, 1 / 3, "33.33 %"),
        ({"unit": "fraction"}, math.inf, "NaN or infinite"),
        ({"unit": "L2 norm"}, 0.29, "0.29"),
        (FLAGS, 0, "none"),
        (FLAGS, 1, "in gradient"),
        (FLAGS, 6, "in weight, output"),
        (FLAGS, 7, "in gradient, weight, output"),
        (FLAGS, math.nan, "not measured"),
    ],
)
def test_a_cell_is_written_by_its_unit(metric: dict[str, str], value: float, text: str, numbers: Module) -> None:
    assert numbers.call("written", metric, value) == text


def test_powers_counts_and_steps(numbers: Module) -> None:
    assert [numbers.call("power", decade) for decade in (-38, 0, 7)] == ["10⁻³⁸", "10⁰", "10⁷"]
    assert [numbers.call("counted", n, "layer") for n in (0, 1, 2400)] == ["0 layers", "1 layer", "2,400 layers"]
    assert numbers.call("steps", 1000, 1000) == "step 1,000"
    assert numbers.call("steps", 0, 12000) == "steps 0 to 12,000"


def test_words_of_the_server_become_numbers(numbers: Module) -> None:
    given = [1.5, 0, "inf", "-inf", "nan", None]
    found = numbers.run("(m, given) => given.map(m.number)", given)
    assert found[:4] == [1.5, 0, math.inf, -math.inf]
    assert all(math.isnan(value) for value in found[4:])


def test_a_loss_that_was_lost_is_infinite(numbers: Module) -> None:
    summary = {"globals": {"loss": [1.5, None, None, "inf"], "nonfinite_loss": [0, 1, 0, 1]}}
    found = numbers.call("losses", summary)
    assert found[:2] == [1.5, math.inf]
    assert math.isnan(found[2])  # not measured
    assert found[3] == math.inf
    assert numbers.call("losses", {"globals": {"loss": [2]}}) == [2]
    assert numbers.call("losses", {"globals": {}}) == []


@pytest.mark.parametrize(
    ("given", "marks"),
    [
        ((0, 10, 5), [0, 2, 4, 6, 8, 10]),
        ((0, 1, 4), [0, 0.5, 1]),
        ((-0.3, 0.3, 6), [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        ((0, 3, 10, True), [0, 1, 2, 3]),
        ((-7.5, 0.5, 5, True), [-6, -4, -2, 0]),
        ((5, 5, 3), [5]),
        ((5, 4, 3), [5]),
        ((0, math.inf, 3), [0]),
        ((math.nan, 1, 3), [math.nan]),
    ],
)
def test_marks_are_round_numbers(given: tuple[Any, ...], marks: list[float], numbers: Module) -> None:
    assert numbers.call("ticks", *given) == pytest.approx(marks, nan_ok=True)


def test_marks_of_any_range_are_few_even_and_inside(numbers: Module) -> None:
    rng = random.Random(2)
    for _ in range(200):
        low = rng.uniform(-1, 1) * 10.0 ** rng.randint(-12, 12)
        high = low + rng.uniform(1, 10) * 10.0 ** rng.randint(-8, 12) * max(abs(low), 1e-12)
        count = rng.randint(1, 12)
        marks = numbers.call("ticks", low, high, count)
        room = 1e-6 * (high - low)
        assert len(marks) <= count + 1, (low, high, count)
        assert all(low - room <= mark <= high + room for mark in marks), (low, high, count)
        gaps = [after - before for before, after in pairwise(marks)]
        assert gaps == pytest.approx([gaps[0]] * len(gaps) if gaps else [], rel=1e-2), (low, high, count)
        assert count < 3 or len(marks) >= 1, (low, high, count)


def test_the_record_at_a_step_is_the_last_that_began(numbers: Module) -> None:
    values = [3, 5, 5, 9]
    for wanted in (0, 3, 4, 5, 8.5, 9, 100):
        assert numbers.call("indexAt", values, wanted) == max(0, bisect.bisect_right(values, wanted) - 1)
    assert numbers.call("indexAt", [], 3) == 0
