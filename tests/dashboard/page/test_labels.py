"""Which rows of a heat map have their names written."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

LABELLED = "(m, rows, edges, every, chosen) => m.labelled(rows, edges, every, (row) => row.name === chosen)"


@pytest.fixture(scope="module")
def labels(module_of: Callable[[str], Module]) -> Module:
    return module_of("labels.js")


def rows_of(severities: list[str | None]) -> list[dict[str, Any]]:
    return [{"name": i, "severity": severity} for i, severity in enumerate(severities)]


def edges_of(rows: int, bands: int) -> list[int]:
    return [i * rows // bands for i in range(bands + 1)]


def written(
    labels: Module, severities: list[str | None], bands: int, every: int, chosen: int | None = None
) -> list[int]:
    given = rows_of(severities), edges_of(len(severities), bands), every, chosen
    return [row["name"] for row in labels.run(LABELLED, *given)]


def test_where_there_is_room_every_row_has_its_name(labels: Module) -> None:
    assert written(labels, [None, "critical", None], 3, 1) == [0, 1, 2]


def test_without_anything_sick_the_choice_is_even(labels: Module) -> None:
    assert written(labels, [None] * 10, 10, 3) == [0, 3, 6, 9]


def test_the_chosen_row_comes_first_then_the_sick_ones_the_worst_before_the_others(labels: Module) -> None:
    severities = [None, "warning", "critical", "warning", None, None, "warning", None, None]
    assert written(labels, severities, 9, 2) == [2, 6, 0, 4, 8]
    assert written(labels, severities, 9, 2, chosen=3) == [3, 1, 6, 8]
    assert written(labels, severities, 9, 9, chosen=5) == [5]


def test_of_rows_that_share_a_band_the_sick_one_is_named(labels: Module) -> None:
    severities: list[str | None] = [None] * 100
    severities[37] = "critical"
    assert written(labels, severities, 10, 4)[0] == 37


@pytest.mark.parametrize("seed", range(30))
def test_no_two_names_overlap_and_no_room_is_wasted(seed: int, labels: Module) -> None:
    rng = random.Random(seed)
    rows, every = rng.randint(1, 120), rng.randint(2, 9)
    bands = rng.randint(1, rows)
    severities = rng.choices([None, "warning", "critical"], [20, 2, 1], k=rows)
    edges = edges_of(rows, bands)
    chosen = rng.randrange(rows)
    found = written(labels, severities, bands, every, chosen)
    band_of = {row: band for band in range(bands) for row in range(edges[band], edges[band + 1])}
    taken = sorted(band_of[row] for row in found)
    assert found[0] == chosen
    assert all(after - before >= every for before, after in pairwise(taken))
    gaps = zip([-math.inf, *taken], [*taken, math.inf], strict=True)
    assert all(min(after, bands - 1 + every) - max(before, -every) < 2 * every for before, after in gaps)
    for row, severity in enumerate(severities):  # a sick row is left out only for one that comes before it
        if severity == "critical" and row not in found:
            near = [other for other in found if abs(band_of[other] - band_of[row]) < every]
            assert any(other == chosen or severities[other] == "critical" for other in near), row
