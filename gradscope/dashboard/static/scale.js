// From numbers to colours: what is drawn of a cell, and the range that one scale over all the runs shown has to span.

import {EXACT_ZERO, NON_FINITE, SEQUENTIAL, STEPS, diverging, notMeasured, packed} from './colours.js';
import {brief, power, ticks} from './numbers.js';

const MAX_DECADES = 8;
const SAMPLE = 40_000;
const [LEAST_REACH, GREATEST_REACH] = [3, 12];

export const isLogarithmic = (metric) => metric.unit === 'L2 norm' || metric.unit === 'ratio';
const largestIsWorst = (metric) => metric.unit === 'fraction' || metric.unit === 'flags';

// Kinds of layers whose range is a promise with two sides: a value of theirs is drawn by its distance from it. Without
// a prototype, so that no kind that a log names is found in one.
export function contracts(metric) {
  return {__proto__: null, ...(metric.unit === 'value' ? metric.healthy : {})};
}

// Says whether all that is measured of `metric` in `matrices` has such a range.
export function hasContract(metric, matrices) {
  const kinds = new Set(matrices.flatMap((m) => m.measured.map((i) => m.layers[i].kind)));
  return kinds.size > 0 && [...kinds].every((kind) => kind in contracts(metric));
}

// The distance from the middle of a range in halves of its width: within ±1 is inside. A range of positive numbers
// is measured in logarithms, on each side by its own width from the middle: 1, where it holds it, as a variance does.
export function distance(value, [low, high]) {
  if (low > 0) {
    const middle = middleOf(low, high);
    const side = value >= middle ? high : low;
    return (value >= middle ? 1 : -1) * (Math.log(value / middle) / Math.log(side / middle));
  }
  return (value - (low + high) / 2) / ((high - low) / 2);
}

export function atDistance(reached, [low, high]) {
  if (low > 0) {
    const middle = middleOf(low, high);
    return middle * ((reached >= 0 ? high : low) / middle) ** Math.abs(reached);
  }
  return (low + high) / 2 + (reached * (high - low)) / 2;
}

function middleOf(low, high) {
  return low < 1 && high > 1 ? 1 : Math.sqrt(low * high);
}

// What is drawn, one layer after another: float32[L × S], +∞ where not finite, −∞ for an exact zero without logarithm.
export function drawn(matrix, byContract) {
  const {metric, layers, data} = matrix;
  const [records, width] = [matrix.steps.length, layers.length];
  const logarithmic = isLogarithmic(metric);
  const out = new Float32Array(width * records);
  for (let l = 0; l < width; l++) {
    const range = byContract ? contracts(metric)[layers[l].kind] : undefined;
    for (let s = 0; s < records; s++) {
      const value = data[s * width + l];
      let shown = value;
      if (Math.abs(value) === Infinity) shown = Infinity;
      else if (logarithmic) shown = Math.log10(value);
      else if (range) shown = distance(value, range);
      out[l * records + s] = shown;
    }
  }
  return out;
}

// One scale over several of `drawn`: {low, high, centre, …}; `low` and `high` are decades where it is logarithmic.
export function scaleOver(metric, matrices, parts, byContract, dark) {
  const finite = sample(parts);
  const middle = quantile(finite, 0.5);
  const scale = {
    metric, byContract,
    logarithmic: isLogarithmic(metric),
    range: byContract ? Object.values(contracts(metric))[0] : null,
    centre: byContract ? 0 : largestIsWorst(metric) || !finite.length ? -1 : middle,
    ...limits(metric, finite, middle, byContract, ends(parts)),
  };
  return painted(scale, dark);
}

function limits(metric, finite, middle, byContract, [least, greatest]) {
  if (byContract) {
    const reach = Math.min(Math.max(-least, greatest, LEAST_REACH), GREATEST_REACH);
    return {low: -reach, high: reach, cutLow: least < -reach, cutHigh: greatest > reach};
  }
  if (largestIsWorst(metric) || !finite.length) {
    return {low: 0, high: metric.unit === 'flags' ? 7 : 1, cutLow: false, cutHigh: false};
  }
  // A lone outlier must not squeeze all the others into one colour, and must still differ from them.
  const reach = isLogarithmic(metric) ? MAX_DECADES
    : 10 * (quantile(finite, 0.75) - quantile(finite, 0.25)) || Infinity;
  const [low, high] = [Math.max(least, middle - reach), Math.min(greatest, middle + reach)];
  // What varies by less than three decades is the noise of a sound run, and shall look calm.
  const calm = isLogarithmic(metric) ? 3 : Math.max(Math.abs(middle) * 1e-3, 1e-6);
  const margin = Math.max(0, (calm - (high - low)) / 2);
  return {low: low - margin, high: high + margin, cutLow: low > least, cutHigh: high < greatest};
}

function ends(parts) {
  let [least, greatest] = [Infinity, -Infinity];
  for (const part of parts) {
    for (const value of part) {
      if (value < least && value > -Infinity) least = value;
      if (value > greatest && value < Infinity) greatest = value;
    }
  }
  return [least, greatest];
}

function sample(parts) {
  const every = Math.max(1, Math.floor(parts.reduce((all, part) => all + part.length, 0) / SAMPLE));
  const finite = [];
  for (const part of parts) {
    for (let i = 0; i < part.length; i += every) if (Number.isFinite(part[i])) finite.push(part[i]);
  }
  return Float32Array.from(finite).sort();
}

function quantile(sorted, share) {
  return sorted.length ? sorted[Math.floor(share * (sorted.length - 1))] : NaN;
}

function painted(scale, dark) {
  const colours = scale.byContract ? diverging(scale.high) : SEQUENTIAL;
  return {
    ...scale, colours, packed: Uint32Array.from(colours, packed),
    special: {missing: packed(notMeasured(dark)), nonFinite: packed(NON_FINITE), zero: packed(EXACT_ZERO)},
  };
}

// The colour of what `drawn` gives, as one number.
export function colourOf(scale, value) {
  if (value !== value) return scale.special.missing;
  if (value === Infinity) return scale.special.nonFinite;
  if (value === -Infinity) return scale.special.zero;
  const position = (value - scale.low) / (scale.high - scale.low);
  return scale.packed[Math.min(Math.max(stepAt(position * (STEPS - 1), value, scale.byContract), 0), STEPS - 1)];
}

// Beside the edge of a range it is rounded away from it, so that no colour tells inside from outside wrongly.
function stepAt(exact, value, byContract) {
  if (!byContract) return Math.round(exact);
  if (Math.abs(value) <= 1) return STEPS / 2;
  return value < 0 ? Math.floor(exact) : Math.ceil(exact);
}

// Where a colour bar is labelled: [{at, text}], `at` from 0 to 1.
export function marks(scale) {
  const at = (value) => (value - scale.low) / (scale.high - scale.low);
  if (scale.byContract) {
    return [-scale.high, -1, 1, scale.high].map((reached) => ({
      at: at(reached), text: brief(Number(atDistance(reached, scale.range).toPrecision(Math.abs(reached) === 1 ? 3 : 2))),
    }));
  }
  if (scale.metric.unit === 'flags') {
    return [[0, 'none'], [1, 'grad'], [2, 'weight'], [4, 'out'], [7, 'all']].map(([value, text]) => ({at: at(value), text}));
  }
  const values = ticks(scale.low, scale.high, 5, scale.logarithmic);
  return values.map((value) => ({at: at(value), text: scale.logarithmic ? power(value) : brief(value)}));
}
