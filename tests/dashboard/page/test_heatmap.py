"""A heat map tells of a pixel what is drawn there, layers and records that share it among them."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

# Each band and pixel: the value that is gathered for drawing, and the one of the cell that the pointer finds.
DRAWN_AND_TOLD = """async (m, cells, records, rows, bands, width, centre) => {
  const {gatherLayers, gatherRecords, recordsOfPixels} = await import('/bands.js');
  const steps = Array.from({length: records}, (_, s) => 10 * s);
  const drawn = Float32Array.from(cells);
  const layers = Array.from({length: cells.length / records}, (_, l) => ({name: `${l}`}));
  const data = Float32Array.from(cells, (_, i) => cells[(i % layers.length) * records + Math.floor(i / layers.length)]);
  const map = Object.assign(Object.create(m.HeatMap.prototype), {
    view: {matrix: {layers, steps, data}, cells: drawn, rows: rows.map((of) => ({layers: of})), scale: {centre}},
    edges: Array.from({length: bands + 1}, (_, i) => Math.floor((i * rows.length) / bands)),
    place: {ratio: 1, band: 2, bands, left: 50, right: 50 + width, top: 4},
    pixels: recordsOfPixels(steps, [0, 10 * records], width),
  });
  const groups = map.edges.slice(0, -1).map((_, band) => map.layersIn(band));
  const gathered = gatherRecords(gatherLayers(drawn, records, groups, centre), records, bands, map.pixels, centre);
  const told = [];
  for (let y = 0; y < bands; y++) {
    for (let x = 0; x < width; x++) {
      const {row, record} = map.under(50.5 + x, 5 + 2 * y);
      told.push(map.cellAt(row, record).value);
    }
  }
  return [Array.from(gathered), told];
}"""


@pytest.mark.parametrize("seed", range(12))
def test_the_pointer_tells_the_cell_that_is_drawn(seed: int, module_of: Callable[[str], Module]) -> None:
    rng = np.random.default_rng(seed)
    layers, records, width = int(rng.integers(3, 15)), int(rng.integers(2, 30)), int(rng.integers(1, 20))
    cells = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 2.5, -7.0], (layers, records))
    rows = np.array_split(rng.permutation(layers), int(rng.integers(1, layers + 1)))
    given = [row.tolist() for row in rows], int(rng.integers(1, len(rows) + 1)), width, float(rng.choice([-1, 0, 0.3]))
    drawn, told = module_of("heatmap.js").run(DRAWN_AND_TOLD, cells.ravel().tolist(), records, *given)
    np.testing.assert_array_equal(told, drawn)
