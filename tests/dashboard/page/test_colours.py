"""The colours: those of the stock dashboards' heat map, and two sides that stay apart."""

from collections.abc import Callable

import numpy as np
import pytest

from gradscope import grid
from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def colours(module_of: Callable[[str], Module]) -> Module:
    return module_of("colours.js")


def test_amounts_have_the_colours_of_the_logged_pictures(colours: Module) -> None:
    found = np.array(colours.run("(m) => m.SEQUENTIAL"))
    positions = np.linspace(0.0, 1.0, colours.run("(m) => m.STEPS"))
    expected = grid.colours_of(positions, grid.Scale(0.0, 1.0, False, False, False))
    assert len(found) == 256
    assert np.abs(found - expected.astype(int)).max() <= 1  # halves are rounded up here and to even there
    assert tuple(found[0]) == (68, 1, 84)
    assert tuple(found[-1]) == (253, 231, 37)


def test_what_is_no_amount_has_the_colours_of_the_logged_pictures(colours: Module) -> None:
    assert tuple(colours.run("(m) => m.NON_FINITE")) == grid.NON_FINITE
    assert tuple(colours.run("(m) => m.EXACT_ZERO")) == grid.EXACT_ZERO
    assert tuple(colours.call("notMeasured", False)) == grid.NOT_MEASURED
    assert colours.call("notMeasured", True) != colours.call("notMeasured", False)


@pytest.mark.parametrize("reach", [3, 5.5, 12])
def test_the_inside_is_one_colour_and_each_side_its_own(reach: float, colours: Module) -> None:
    found = np.array(colours.call("diverging", reach))
    distances = np.linspace(-reach, reach, len(found))
    inside = np.abs(distances) <= 1
    assert (found[inside] == found[inside][0]).all()
    assert not (found[~inside] == found[inside][0]).all(axis=1).any()
    below, above = found[distances < -1], found[distances > 1]
    assert (below[:, 2] > below[:, 0]).all()  # blue
    assert (above[:, 0] > above[:, 2]).all()  # orange
    assert (np.diff(below.sum(axis=1)) >= 0).all()  # the farther, the darker
    assert (np.diff(above.sum(axis=1)) <= 0).all()
    assert tuple(found[0]) == (8, 69, 148)
    assert tuple(found[-1]) == (140, 45, 4)


def test_a_packed_colour_is_read_by_a_canvas(colours: Module) -> None:
    painted = """(m) => {
      const image = new ImageData(1, 1);
      new Uint32Array(image.data.buffer)[0] = m.packed([230, 30, 60]);
      return Array.from(image.data);
    }"""
    assert colours.run(painted) == [230, 30, 60, 255]
    assert colours.call("css", [230, 30, 60]) == "rgb(230, 30, 60)"
