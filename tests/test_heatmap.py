import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gradscope.grid import EXACT_ZERO, NON_FINITE, NOT_MEASURED
from gradscope.heatmap import HeatMap, heat_map_png
from gradscope.records import Layer, Metric, NonFinite, Record, Run

GRAD_NORM = Metric("grad_norm", "Gradient norm", "L2 norm")
COLUMNS = (
    GRAD_NORM,
    Metric("dead_fraction", "Dead units", "fraction"),
    Metric("act_mean", "Mean of the outputs", "value"),
    Metric("nonfinite", "NaN or infinite", "flags"),
)
Pixels = npt.NDArray[np.int64]
DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 37)


def run_of(values: npt.ArrayLike, metric: str = "grad_norm", steps: Sequence[int] = (), prefix: str = "layer") -> Run:
    """Return a run in which `metric` is `values`, float[S, L]."""
    cells = np.asarray(values, dtype=np.float32)
    layers = tuple(Layer(f"{prefix}{i}", "Linear", "linear") for i in range(cells.shape[1]))
    steps = steps or range(len(cells))
    records = [Record(s, float(s), layers, {metric: row}) for s, row in zip(steps, cells, strict=True)]
    return Run.from_records("run", records, COLUMNS)


def pixels_of(picture: HeatMap) -> Pixels:
    image = Image.open(io.BytesIO(picture.png))
    assert image.format == "PNG"
    assert image.size == (picture.width, picture.height)
    return np.asarray(image, dtype=np.int64)


def grid_of(run: Run, metric: str = "grad_norm", layers: int | None = None) -> Pixels:
    """Return the colour in the middle of each layer's row, int64[L, width of the grid, 3]."""
    pixels = pixels_of(heat_map_png(run, metric))
    count = layers or len(run.layers)
    band = min(26, max(2, 600 // count))
    right = pixels.shape[1] - 96
    rows = pixels[66 + band // 2 : 66 + band * count : band]
    # Names stand to the left of the grid on white paper: from the right, the grid ends where white begins.
    width = int(np.argmax((rows[:, :right] == 255).all(axis=(0, 2))[::-1]))
    return rows[:, right - width : right]


def brightness(colours: Pixels) -> npt.NDArray[np.float64]:
    luminance: npt.NDArray[np.float64] = colours @ np.array([0.2126, 0.7152, 0.0722])
    return luminance


def count(pixels: Pixels, colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(axis=-1).sum())


class TestColours:
    def test_vanishing_rows_get_darker_towards_the_input(self) -> None:
        norms = np.tile(10.0 ** -np.arange(9, -1, -1), (20, 1))
        means = brightness(grid_of(run_of(norms))).mean(axis=1)
        assert (np.diff(means) > 5).all()

    def test_the_ends_of_the_scale_are_the_ends_of_the_map(self) -> None:
        grid = grid_of(run_of([[1e-6, 1e-3, 1.0]]))
        assert tuple(grid[0, 0]) == DARKEST
        assert tuple(grid[2, 0]) == BRIGHTEST

    def test_a_sound_run_looks_calm(self) -> None:
        noise = np.random.default_rng(0).lognormal(0, 0.2, (30, 4))
        assert np.ptp(brightness(grid_of(run_of(noise)))) < 80

    def test_fractions_are_drawn_from_zero_to_one(self) -> None:
        grid = grid_of(run_of([[0.0, 0.5, 1.0]], "dead_fraction"), "dead_fraction")
        assert [tuple(row[0]) for row in grid] == [DARKEST, (33, 145, 140), BRIGHTEST]

    def test_zero_infinity_and_absence_have_colours_of_their_own(self) -> None:
        values = [[0.0, np.inf, np.nan, 0.1], [0.0, np.inf, 0.1, 0.1]]
        grid = grid_of(run_of(values))
        assert [tuple(row[0]) for row in grid[:3]] == [EXACT_ZERO, NON_FINITE, NOT_MEASURED]
        assert tuple(grid[2, -1]) == tuple(grid[3, -1])

    def test_zero_is_an_ordinary_value_on_a_linear_scale(self) -> None:
        pixels = pixels_of(heat_map_png(run_of([[0.0, 1.0]], "act_mean"), "act_mean"))
        assert count(pixels, EXACT_ZERO) == 0

    def test_the_legend_names_only_what_occurs(self) -> None:
        plain = heat_map_png(run_of([[0.1, 0.2]]), "grad_norm")
        special = heat_map_png(run_of([[0.1, 0.0]]), "grad_norm")
        assert special.height > plain.height
        assert count(pixels_of(special)[66 + 2 * 26 + 40 :], EXACT_ZERO) > 100

    def test_a_gradient_that_became_nan_is_not_taken_for_unmeasured(self) -> None:
        layers = (Layer("a", "Linear", "linear"), Layer("b", "Linear", "linear"))
        flags = np.array([NonFinite.GRADIENT, 0], dtype=np.float32)
        norms = np.array([[0.1, 0.1], [np.nan, np.nan]], dtype=np.float32)
        records = [
            Record(0, 0.0, layers, {"grad_norm": norms[0]}),
            Record(1, 1.0, layers, {"grad_norm": norms[1], "nonfinite": flags}),
        ]
        grid = grid_of(Run.from_records("run", records, COLUMNS))
        assert tuple(grid[0, -1]) == NON_FINITE
        assert tuple(grid[1, -1]) == NOT_MEASURED

    def test_an_outlier_does_not_squeeze_the_others_into_one_colour(self) -> None:
        values = np.tile(np.linspace(-1, 1, 20), (5, 1))
        values[:, 7] = 1e9
        grid = brightness(grid_of(run_of(values, "act_mean"), "act_mean")).mean(axis=1)
        assert grid.argmax() == 7
        assert grid[19] - grid[0] > 5


class TestNothingIsHidden:
    @pytest.mark.parametrize("lone", [0, 1234, 2399])
    @pytest.mark.parametrize(
        ("value", "colour"), [(1e-7, DARKEST), (1e5, BRIGHTEST), (0.0, EXACT_ZERO), (np.inf, NON_FINITE)]
    )
    def test_a_lone_sick_row_among_2400_is_visible(self, lone: int, value: float, colour: tuple[int, int, int]) -> None:
        norms = np.random.default_rng(0).lognormal(-2, 0.3, (10, 2400))
        norms[:, lone] = value
        grid = grid_of(run_of(norms), layers=300)
        assert (grid[lone // 8] == colour).all()
        others = np.delete(grid, lone // 8, axis=0)
        assert count(others, colour) == 0

    def test_a_lone_sick_record_among_5000_is_visible(self) -> None:
        norms = np.full((5000, 2), 0.1)
        norms[3210, 1] = 1e4
        grid = grid_of(run_of(norms))
        assert count(grid[1], BRIGHTEST) == 1
        assert count(grid[0], BRIGHTEST) == 0

    def test_an_unmeasured_neighbour_hides_nothing(self) -> None:
        norms = np.full((3, 900), 0.1)
        norms[1:, ::3] = np.nan
        norms[1, [100, 301]] = 1e4, 1e-7
        grid = grid_of(run_of(norms), layers=300)
        assert count(grid, NOT_MEASURED) == 0
        assert count(grid[33], BRIGHTEST) > 100
        assert count(grid[100], DARKEST) > 100


class TestAxes:
    def test_records_are_drawn_by_their_step(self) -> None:
        grid = grid_of(run_of([[1.0], [1e-6], [1e-6]], steps=(0, 10, 100)))
        bright = (grid[0] == BRIGHTEST).all(axis=-1).mean()
        assert bright == pytest.approx(10 / 190, abs=0.005)

    def test_an_unmeasured_layer_has_no_row(self) -> None:
        with_absent = np.array([[0.1, np.nan, 0.2]])
        assert (
            heat_map_png(run_of(with_absent), "grad_norm").height
            == heat_map_png(run_of([[0.1, 0.2]]), "grad_norm").height
        )

    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 1), (2, 2400)])
    @pytest.mark.parametrize("value", [0.0, 1e-45, 1.0, 3e38, np.inf])
    def test_any_shape_and_constant_can_be_drawn(self, shape: tuple[int, int], value: float) -> None:
        pixels = pixels_of(heat_map_png(run_of(np.full(shape, value)), "grad_norm"))
        assert pixels.shape[1] == 900

    def test_hostile_and_very_long_names_leave_room_for_the_picture(self) -> None:
        run = run_of(np.full((3, 4), 0.1), prefix="a.very.long\n\x00<name>" * 20)
        assert grid_of(run).shape[1] > 500

    def test_nothing_measured_gives_a_picture_that_says_so(self) -> None:
        for run in (run_of(np.full((2, 3), np.nan)), Run.from_records("run", [], COLUMNS)):
            picture = heat_map_png(run, "grad_norm")
            assert (picture.width, picture.height) == (900, 80)
            assert brightness(pixels_of(picture)).min() < 100

    def test_a_narrow_picture_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`width` must be at least 400 pixels, got 200; names"):
            heat_map_png(run_of([[1.0]]), "grad_norm", width=200)
