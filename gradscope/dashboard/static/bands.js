// Gathers cells for drawing: where several layers or records share a pixel it keeps the worst, so that none is lost.

import {indexAt} from './numbers.js';

// Worst is what lies farthest from the centre. Both bounds stay as they were set where nothing was measured: NaN.
function worst(low, high, centre) {
  if (low > high) return NaN;
  return high - centre >= centre - low ? high : low;
}

// Says the same of two cells: of those equally far away the greater is worse, so that a NaN wins over an exact zero.
export function isWorse(value, than, centre) {
  if (Number.isNaN(value) || Number.isNaN(than)) return Number.isNaN(than) && !Number.isNaN(value);
  const [far, other] = [Math.abs(value - centre), Math.abs(than - centre)];
  return far > other || (far === other && value > than);
}

// Layers to bands: `groups` holds the layers of each band, `cells` is float32[L × records].
// Returns float32[bands × records].
export function gatherLayers(cells, records, groups, centre) {
  const out = new Float32Array(groups.length * records);
  groups.forEach((layers, band) => {
    if (layers.length === 1) {
      out.set(cells.subarray(layers[0] * records, (layers[0] + 1) * records), band * records);
      return;
    }
    const low = new Float32Array(records).fill(Infinity);
    const high = new Float32Array(records).fill(-Infinity);
    for (const layer of layers) {
      for (let s = 0, at = layer * records; s < records; s++, at++) {
        if (cells[at] < low[s]) low[s] = cells[at];
        if (cells[at] > high[s]) high[s] = cells[at];
      }
    }
    for (let s = 0; s < records; s++) out[band * records + s] = worst(low[s], high[s], centre);
  });
  return out;
}

// Where the last record ends: it is drawn as wide as the one before.
export function endOf(steps) {
  const last = steps.length - 1;
  return steps[last] + (last > 0 ? steps[last] - steps[last - 1] : 1);
}

// The records on each of `width` pixels between the steps `first` and `end`: start and stop of each, int32[2 × width].
// A record is drawn from its step up to the next one's; before the first and behind the last there is none.
export function recordsOfPixels(steps, [first, end], width) {
  const out = new Int32Array(2 * width);
  const runEnd = endOf(steps);
  let start = indexAt(steps, first);
  for (let x = 0; x < width; x++) {
    const left = first + ((end - first) * x) / width;
    const right = first + ((end - first) * (x + 1)) / width;
    if (right <= steps[0] || left >= runEnd) continue;
    while (start + 1 < steps.length && steps[start + 1] <= left) start++;
    let stop = start + 1;
    while (stop < steps.length && steps[stop] < right) stop++;
    out[2 * x] = start;
    out[2 * x + 1] = stop;
  }
  return out;
}

// float32[bands × records] to float32[bands × width].
export function gatherRecords(cells, records, bands, pixels, centre) {
  const width = pixels.length / 2;
  const out = new Float32Array(bands * width);
  for (let band = 0; band < bands; band++) {
    const row = band * records;
    for (let x = 0; x < width; x++) {
      const stop = row + pixels[2 * x + 1];
      let [low, high] = [Infinity, -Infinity];
      for (let at = row + pixels[2 * x]; at < stop; at++) {
        if (cells[at] < low) low = cells[at];
        if (cells[at] > high) high = cells[at];
      }
      out[band * width + x] = worst(low, high, centre);
    }
  }
  return out;
}
