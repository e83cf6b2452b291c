"""Cells gathered for drawing: of what shares a pixel the worst is drawn, against numpy and the logged pictures."""

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from gradscope import grid
from gradscope.records import Floats
from tests.dashboard.modules import Module, floats

pytestmark = pytest.mark.slow

SEEDS = range(12)
GATHER_LAYERS = """(m, cells, records, groups, centre) =>
  Array.from(m.gatherLayers(Float32Array.from(cells), records, groups, centre))"""
GATHER_RECORDS = """(m, cells, records, bands, pixels, centre) =>
  Array.from(m.gatherRecords(Float32Array.from(cells), records, bands, Int32Array.from(pixels), centre))"""
RECORDS_OF_PIXELS = "(m, steps, extent, width) => Array.from(m.recordsOfPixels(steps, extent, width))"


@pytest.fixture(scope="module")
def bands(module_of: Callable[[str], Module]) -> Module:
    return module_of("bands.js")


def cells_of(rng: np.random.Generator, layers: int, records: int) -> Floats:
    """Return numbers with absences, infinities and zeros among them, often whole stretches."""
    cells = rng.normal(0, 3, (layers, records)).astype(np.float32)
    for odd in (np.nan, np.inf, -np.inf, 0.0):
        cells[rng.random((layers, records)) < 0.15] = odd
    cells[rng.integers(layers)] = np.nan
    cells[:, rng.integers(records)] = np.nan
    return cells


def worst(cells: npt.ArrayLike, centre: float) -> float:
    """Return what lies farthest from `centre`, the greater of two; NaN only where nothing was measured."""
    measured = [float(value) for value in np.ravel(cells) if not np.isnan(value)]
    return max(measured, key=lambda value: (abs(value - centre), value)) if measured else np.nan


@pytest.mark.parametrize("seed", SEEDS)
def test_of_the_layers_in_a_band_the_worst_is_drawn(seed: int, bands: Module) -> None:
    rng = np.random.default_rng(seed)
    layers, records = int(rng.integers(1, 9)), int(rng.integers(1, 12))
    cells, centre = cells_of(rng, layers, records), float(rng.choice([-1.0, 0.0, 0.7]))
    groups = [rng.choice(layers, rng.integers(1, layers + 1), replace=False).tolist() for _ in range(5)]
    found = floats(bands.run(GATHER_LAYERS, cells.ravel().tolist(), records, groups, centre)).reshape(5, records)
    expected = [[worst(cells[group, record], centre) for record in range(records)] for group in groups]
    np.testing.assert_array_equal(found, floats(expected))


@pytest.mark.parametrize("seed", SEEDS)
def test_of_the_records_on_a_pixel_the_worst_is_drawn(seed: int, bands: Module) -> None:
    rng = np.random.default_rng(seed)
    rows, records = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    cells, centre = cells_of(rng, rows, records), float(rng.choice([-1.0, 0.0, 0.7]))
    pixels = [sorted(rng.integers(0, records + 1, 2).tolist()) for _ in range(7)]  # some without a record
    given = cells.ravel().tolist(), records, rows, [end for pixel in pixels for end in pixel], centre
    found = floats(bands.run(GATHER_RECORDS, *given)).reshape(rows, 7)
    np.testing.assert_array_equal(found, floats([[worst(row[a:b], centre) for a, b in pixels] for row in cells]))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_gathered_is_what_the_logged_picture_shows(seed: int, bands: Module) -> None:
    rng = np.random.default_rng(seed)
    layers, records, width, rows = int(rng.integers(3, 12)), int(rng.integers(2, 40)), 64, 3
    cells = cells_of(rng, layers, records)
    centre = float(np.median(cells[np.isfinite(cells)]))
    steps = np.cumsum(rng.integers(1, 9, records))
    edges = np.arange(rows + 1) * layers // rows
    by_band = grid._worst(cells.T.astype(np.float64), edges[:-1], edges[1:], 1, centre)
    expected = grid._worst(by_band, *grid._records_of_columns(steps, width), 0, centre).T

    groups = [list(range(a, b)) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    extent = [int(steps[0]), grid.end_of(steps)]
    gathered = bands.run(GATHER_LAYERS, cells.ravel().tolist(), records, groups, centre)
    pixels = bands.run(RECORDS_OF_PIXELS, steps.tolist(), extent, width)
    found = floats(bands.run(GATHER_RECORDS, gathered, records, rows, pixels, centre)).reshape(rows, width)
    np.testing.assert_array_equal(found, floats(expected))


def test_a_lone_bad_cell_among_two_thousand_layers_is_drawn(bands: Module) -> None:
    lone = """(m) => {
      const cells = new Float32Array(2400 * 50);
      cells[1234 * 50 + 7] = -5;
      const groups = [Array.from({length: 2400}, (_, i) => i)];
      const rows = m.gatherLayers(cells, 50, groups, 0.5);
      const pixels = m.recordsOfPixels(Array.from({length: 50}, (_, i) => i), [0, 50], 5);
      return Array.from(m.gatherRecords(rows, 50, 1, pixels, 0.5));
    }"""
    assert bands.run(lone) == [-5, 0, 0, 0, 0]


def on_pixel(steps: list[int], left: float, right: float) -> list[int]:
    """Return the records that are drawn between `left` and `right`, each from its step up to the next one's."""
    ends = [*steps[1:], steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)]
    return [i for i, (first, end) in enumerate(zip(steps, ends, strict=True)) if first < right and end > left]


@pytest.mark.parametrize("seed", range(40))
def test_each_pixel_has_the_records_of_its_steps(seed: int, bands: Module) -> None:
    rng = random.Random(seed)
    steps = sorted(rng.sample(range(1000), rng.randint(1, 60)))
    first = rng.choice([steps[0], 0, rng.randint(0, 999)])
    end, width = first + rng.choice([1, 2, rng.randint(1, 1200)]), rng.choice([1, 3, 64, 500])
    found = bands.run(RECORDS_OF_PIXELS, steps, [first, end], width)
    for x in range(width):
        left, right = first + (end - first) * x / width, first + (end - first) * (x + 1) / width
        start, stop = found[2 * x], found[2 * x + 1]
        assert list(range(start, stop)) == on_pixel(steps, left, right), (x, left, right)


def test_before_the_first_record_and_behind_the_last_there_is_none(bands: Module) -> None:
    assert bands.run(RECORDS_OF_PIXELS, [10, 20], [0, 40], 4) == [0, 0, 0, 1, 1, 2, 0, 0]
    assert bands.run(RECORDS_OF_PIXELS, [10, 20], [0, 20], 1) == [0, 1]


def test_no_record_of_the_run_is_left_out(bands: Module) -> None:
    steps = [0, 1, 2, 3, 500, 501, 1000]
    assert bands.call("endOf", steps) == 1499
    assert bands.call("endOf", [7]) == 8
    found = bands.run(RECORDS_OF_PIXELS, steps, [0, 1499], 10)
    assert {i for x in range(10) for i in range(found[2 * x], found[2 * x + 1])} == set(range(7))


@pytest.mark.parametrize("centre", [-1.0, 0.0, 0.7])
def test_one_cell_is_worse_than_another_as_they_are_drawn(centre: float, bands: Module) -> None:
    """What the pointer tells of a pixel is the cell that is drawn there."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        cells = cells_of(rng, 4, 5).ravel().tolist()
        found = bands.run(
            "(m, cells, centre) => cells.reduce((worst, one) => (m.isWorse(one, worst, centre) ? one : worst))",
            cells,
            centre,
        )
        np.testing.assert_array_equal(found, worst(cells, centre))
    assert not bands.call("isWorse", 0.5, 0.5, centre)
