// The chosen metric over depth, from the input to the loss, at one step: vanishing gradients are a fan that opens.

import {LineChart} from './chart.js';
import {element} from './dom.js';
import {clipped} from './names.js';
import {indexAt} from './numbers.js';
import {contracts, isLogarithmic} from './scale.js';

const FAN = 8;

export class Depth {
  constructor(moveTo) {
    this.chart = new LineChart();
    this.slider = element('input', {type: 'range', min: 0, 'aria-label': 'Step', oninput: () => {
      moveTo(this.steps[Number(this.slider.value)]);
    }});
    this.where = element('output', {className: 'faint'});
    this.heading = element('h2');
    this.node = element('section', {'aria-label': 'Over depth'}, this.heading, this.chart.node,
      element('div', {className: 'slider'}, element('span', {}, 'Step'), this.slider, this.where));
  }

  // `runs`: those with a matrix of the metric; `step`: where to look, null for the last record.
  update(runs, step, metric) {
    this.heading.textContent = `${metric.title} over depth`;
    this.steps = [...new Set(runs.flatMap((run) => [...run.matrix.steps]))].sort((a, b) => a - b);
    if (!this.steps.length) return;
    const at = step === null ? this.steps.length - 1 : indexAt(this.steps, step);
    this.slider.max = this.steps.length - 1;
    this.slider.value = at;
    this.slider.setAttribute('aria-valuetext', `step ${this.steps[at]}`);
    this.where.textContent = this.steps[at].toLocaleString('en');
    this.chart.update(this.view(runs, this.steps[at], metric));
  }

  view(runs, step, metric) {
    const alone = runs.length === 1;
    const lines = runs.flatMap((run) => [...(alone ? fan(run.matrix) : []), {
      name: alone ? metric.title : clipped(run.name, 30), className: `bold run-${run.colour}`,
      ...profile(run.matrix, indexAt(run.matrix.steps, step)),
    }]);
    const longest = runs.reduce((most, run) => (run.matrix.measured.length > most.matrix.measured.length ? run : most));
    return {
      label: `${metric.title} of each layer from the input to the loss at step ${step}`, height: 220, extent: [0, 1],
      logarithmic: isLogarithmic(metric), series: lines,
      range: isLogarithmic(metric) || metric.unit === 'value' ? rangeOver(runs, metric) : [0, metric.unit === 'flags' ? 7 : 1],
      band: commonBand(runs, metric),
      axis: [{at: 0, text: 'input'}, {at: 1, text: 'loss'}],
      describe: (x) => nameAt(longest.matrix, x),
    };
  }
}

// The range that all the layers shown have in common; null where any has another, or none.
function commonBand(runs, metric) {
  const kinds = new Set(runs.flatMap(({matrix}) => matrix.measured.map((i) => matrix.layers[i].kind)));
  return kinds.size === 1 ? contracts(metric)[[...kinds][0]] ?? null : null;
}

// The layers that have the metric, evenly from 0 at the input to 1 at the loss, so that nets of any depth lie together.
function profile(matrix, record) {
  const last = Math.max(1, matrix.measured.length - 1);
  return {
    xs: matrix.measured.map((_, i) => i / last),
    ys: matrix.measured.map((layer) => matrix.data[record * matrix.layers.length + layer]),
  };
}

function fan(matrix) {
  const records = matrix.steps.length;
  const chosen = new Set(Array.from({length: FAN}, (_, i) => Math.round((i / (FAN - 1)) * (records - 1))));
  return [...chosen].map((record, i) => ({name: '', className: `fan fan-${i}`, ...profile(matrix, record)}));
}

// One range for all steps: under the slider the lines move and the axis stands.
function rangeOver(runs, metric) {
  const ranges = runs.map(({matrix}) => rangeOf(matrix, isLogarithmic(metric)));
  const [low, high] = [Math.min(...ranges.map(([low]) => low)), Math.max(...ranges.map(([, high]) => high))];
  if (low > high) return null;
  const margin = Math.max((high - low) * 0.05, isLogarithmic(metric) ? 0.2 : 1e-3);
  return [low - margin, high + margin];
}

const known = new WeakMap();

function rangeOf(matrix, logarithmic) {
  if (!known.has(matrix)) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of matrix.data) {
      if (logarithmic && value === 0) continue;
      if (value < low && value > -Infinity) low = value;
      if (value > high && value < Infinity) high = value;
    }
    known.set(matrix, logarithmic && low <= high ? [Math.log10(low), Math.log10(high)] : [low, high]);
  }
  return known.get(matrix);
}

function nameAt(matrix, x) {
  const layer = matrix.layers[matrix.measured[Math.round(x * Math.max(0, matrix.measured.length - 1))]];
  return layer ? `${clipped(layer.name || layer.type, 200)} (${layer.type})` : '';
}
