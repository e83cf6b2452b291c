// The heat map of one run: layers downwards in model order, steps to the right.

import {endOf, gatherLayers, gatherRecords, isWorse, recordsOfPixels} from './bands.js';
import {element} from './dom.js';
import {KEYS, listen} from './gestures.js';
import {labelled} from './labels.js';
import {clipped, shortened, visible} from './names.js';
import {counted, indexAt, someTicks, written} from './numbers.js';
import {colourOf} from './scale.js';
import {SIGNS} from './severity.js';

const [MAX_HEIGHT, GREATEST_BAND] = [560, 22];
const [AXIS, TOP, SIGN, RIGHT, GAP] = [24, 4, 16, 14, 8];
const LETTER = 12;

export class HeatMap {
  // `actions`: {choose({layer, step}), zoom([first, end] | null), unfold(module), fold(name), close()}.
  constructor(actions) {
    this.base = element('canvas', {className: 'cells'});
    this.above = element('canvas', {className: 'above'});
    this.readout = element('div', {className: 'visually-hidden', 'aria-live': 'polite'});
    this.frame = element('div', {className: 'heatmap', tabIndex: 0, role: 'application'}, this.base, this.above);
    this.caption = element('figcaption');
    this.node = element('figure', {}, this.caption, this.frame, this.readout);
    this.cursor = null;
    this.dragged = null;
    this.gathered = {};
    listen(this, actions);
  }

  // `view`: {run, matrix, cells, rows, scale, extent, whole, layer, step, marked, alone, searched}; a row is
  // {name, module, layers, severity}, `extent` the steps from the left to the right edge.
  update(view) {
    this.view = view;
    this.keepCursor();
    this.caption.replaceChildren(...(view.alone ? [] : [
      element('span', {className: `swatch run-${view.run.colour}`}), element('bdi', {}, clipped(view.run.name, 60)),
    ]));
    this.frame.setAttribute('aria-label', `${view.matrix.metric.title} of ${visible(view.run.name)}: ` +
      `${counted(view.rows.length, 'row')}, ${counted(view.matrix.steps.length, 'record')}. ${KEYS}`);
    this.draw();
  }

  // Follows the user without drawing the cells again.
  point({layer, step, marked}) {
    Object.assign(this.view, {layer, step, marked});
    this.drawAbove();
  }

  // Where rows were folded or filtered away, the cursor does not stay behind them.
  keepCursor() {
    const {rows, matrix} = this.view;
    if (!this.cursor) return;
    const {row, record} = this.cursor;
    this.cursor = this.isEmpty ? null
      : {row: Math.min(row, rows.length - 1), record: Math.min(record, matrix.steps.length - 1)};
  }

  get isEmpty() {
    return !this.view || !this.view.rows.length || !this.view.matrix.steps.length;
  }

  draw() {
    this.frame.classList.toggle('empty', this.isEmpty);
    this.frame.dataset.empty = this.isEmpty ? this.nothing() : '';
    if (this.isEmpty || !this.frame.clientWidth) return;
    this.readColours();
    this.layout(this.frame.clientWidth);
    this.prepare(this.base);
    this.prepare(this.above);
    this.drawCells();
    this.drawLabels();
    this.drawSteps();
    this.drawAbove();
  }

  nothing() {
    const {matrix, searched} = this.view;
    if (!matrix.steps.length) return 'Nothing was recorded yet.';
    return searched ? 'No layer has a name like that.' : `No layer of this run has the metric “${matrix.metric.title}”.`;
  }

  layout(width) {
    const {rows, matrix, layer} = this.view;
    const ratio = window.devicePixelRatio || 1;
    const most = Math.floor(MAX_HEIGHT * ratio);
    const bands = Math.min(rows.length, most);
    const band = Math.min(GREATEST_BAND * ratio, Math.floor(most / bands));
    this.edges = Array.from({length: bands + 1}, (_, i) => Math.floor((i * rows.length) / bands));
    const isChosen = (row) => row.layers.some((i) => matrix.layers[i].name === layer);
    this.labels = labelled(rows, this.edges, Math.ceil(((LETTER + 2) * ratio) / band), isChosen);
    const pen = this.pen(this.base);
    const widest = Math.max(...this.labels.map((row) => pen.measureText(this.label(row)).width));
    const left = SIGN + GAP + Math.ceil(Math.min(widest, width * 0.3));
    this.place = {ratio, band, bands, width, left, right: width - RIGHT, top: TOP, bottom: TOP + (bands * band) / ratio};
    this.frame.style.height = `${this.place.bottom + AXIS}px`;
  }

  prepare(canvas) {
    const {ratio, width, bottom} = this.place;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((bottom + AXIS) * ratio);
    canvas.style.height = `${bottom + AXIS}px`;
    canvas.getContext('2d').setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  pen(canvas) {
    const pen = canvas.getContext('2d');
    pen.font = `${LETTER}px ${getComputedStyle(document.body).fontFamily}`;
    pen.textBaseline = 'middle';
    return pen;
  }

  readColours() {
    const style = getComputedStyle(this.frame);
    const names = ['ink', 'faint', 'paper', 'mark', 'veil', 'critical', 'warning'];
    this.colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
  }

  drawCells() {
    const {matrix, scale, extent} = this.view;
    const {ratio, band, bands, left, right, top} = this.place;
    const width = Math.max(1, Math.round((right - left) * ratio));
    this.pixels = recordsOfPixels(matrix.steps, extent, width);
    const cells = gatherRecords(this.gatheredLayers(), matrix.steps.length, bands, this.pixels, scale.centre);
    const image = new ImageData(width, bands);
    const colours = new Uint32Array(image.data.buffer);
    for (let i = 0; i < colours.length; i++) {
      const x = 2 * (i % width);
      if (this.pixels[x] < this.pixels[x + 1]) colours[i] = colourOf(scale, cells[i]);
    }
    const small = new OffscreenCanvas(width, bands);
    small.getContext('2d').putImageData(image, 0, 0);
    const pen = this.base.getContext('2d');
    pen.imageSmoothingEnabled = false;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(small, Math.round(left * ratio), Math.round(top * ratio), width, bands * band);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  // This takes the longest, and does not depend on the zoom.
  gatheredLayers() {
    const {matrix, cells, rows, scale} = this.view;
    const from = [cells, rows, scale.centre, this.place.bands];
    if (!this.gathered.from?.every((value, i) => value === from[i])) {
      const groups = this.edges.slice(0, -1).map((_, band) => this.layersIn(band));
      this.gathered = {from, values: gatherLayers(cells, matrix.steps.length, groups, scale.centre)};
    }
    return this.gathered.values;
  }

  layersIn(band) {
    return this.view.rows.slice(this.edges[band], this.edges[band + 1]).flatMap((row) => row.layers);
  }

  label(row) {
    const {name, module, layers} = row;
    return module === null ? visible(name) || this.view.matrix.layers[layers[0]].type
      : `▸ ${visible(module)} (${layers.length})`;
  }

  drawLabels() {
    const {rows} = this.view;
    const {left} = this.place;
    const pen = this.pen(this.base);
    const written = new Set(this.labels);
    rows.forEach((row, i) => {
      if (!row.severity && !written.has(row)) return;
      pen.fillStyle = this.colours[row.severity ?? 'ink'];
      const y = this.middleOf(i);
      if (written.has(row)) {
        pen.textAlign = 'right';
        pen.fillText(shortened(this.label(row), left - SIGN - GAP, (text) => pen.measureText(text).width), left - 6, y + 1);
        pen.textAlign = 'left';
        if (row.severity) pen.fillText(SIGNS[row.severity], 1, y + 1);
      } else if (row.severity) pen.fillRect(left - 4, y - 1, 3, 2);
    });
  }

  drawSteps() {
    const {left, right, bottom, width} = this.place;
    const pen = this.pen(this.base);
    pen.fillStyle = this.colours.faint;
    pen.textAlign = 'center';
    for (const step of someTicks(...this.view.extent, (right - left) / 90, true)) {
      const text = step.toLocaleString('en');
      const half = pen.measureText(text).width / 2;
      pen.fillRect(this.xOf(step), bottom, 1, 4);
      pen.fillText(text, Math.min(this.xOf(step), width - half - 1), bottom + 13);
    }
  }

  drawAbove() {
    if (this.isEmpty || !this.place) return;
    const pen = this.above.getContext('2d');
    pen.clearRect(0, 0, this.place.width, this.place.bottom + AXIS);
    this.drawMarked(pen);
    this.drawChosen(pen);
    if (this.cursor) this.drawCursor(pen);
    if (this.dragged?.moved) {
      const {from, to} = this.dragged;
      pen.fillStyle = this.colours.veil;
      pen.fillRect(Math.min(from, to), this.place.top, Math.abs(to - from), this.place.bottom - this.place.top);
    }
  }

  // The cells that the chosen finding speaks of, a frame around each block of rows.
  drawMarked(pen) {
    const {marked, rows, matrix} = this.view;
    if (!marked) return;
    const {left, right} = this.place;
    const names = new Set(marked.layers);
    const isNamed = (row) => row.layers.some((i) => names.has(matrix.layers[i].name));
    const isWhole = !rows.some(isNamed); // the whole net, or a module that nothing is measured of
    const inside = (row) => isWhole || isNamed(row);
    const [x0, x1] = [Math.max(left, this.xOf(marked.first)), Math.min(right, this.xOf(this.endOfRecord(marked.last)))];
    if (x1 <= x0) return;
    for (let i = 0, start = null; i <= rows.length; i++) {
      const isInside = i < rows.length && inside(rows[i]);
      if (isInside && start === null) start = i;
      if (isInside || start === null) continue;
      this.strokeTwice(pen, 'mark', () => pen.strokeRect(x0 + 1, this.topOf(start) + 1, Math.max(2, x1 - x0 - 2),
        Math.max(2, this.bottomOf(i - 1) - this.topOf(start) - 2)));
      start = null;
    }
  }

  drawChosen(pen) {
    const {rows, matrix, layer, step} = this.view;
    const {left, right, top, bottom} = this.place;
    rows.forEach((row, i) => {
      if (layer === null || !row.layers.some((l) => matrix.layers[l].name === layer)) return;
      this.strokeTwice(pen, 'ink', () => pen.strokeRect(left - 1, this.topOf(i), right - left + 2,
        Math.max(3, this.bottomOf(i) - this.topOf(i))));
    });
    if (step === null || this.xOf(step) < left || this.xOf(step) > right) return;
    this.strokeTwice(pen, 'ink', () => {
      pen.beginPath();
      pen.moveTo(this.xOf(step), top);
      pen.lineTo(this.xOf(step), bottom + 4);
      pen.stroke();
    });
  }

  drawCursor(pen) {
    const step = this.view.matrix.steps[this.cursor.record];
    const [top, height] = [this.topOf(this.cursor.row), this.bottomOf(this.cursor.row) - this.topOf(this.cursor.row)];
    const width = Math.max(4, this.xOf(this.endOfRecord(step)) - this.xOf(step));
    this.strokeTwice(pen, 'mark', () => pen.strokeRect(this.xOf(step), top, width, Math.max(4, height)));
  }

  // A dark line with a light rim can be seen on every colour.
  strokeTwice(pen, name, draw) {
    for (const [colour, width] of [['paper', 4], [name, 1.6]]) {
      pen.strokeStyle = this.colours[colour];
      pen.lineWidth = width;
      draw();
    }
  }

  xOf(step) {
    const {left, right} = this.place;
    const [first, end] = this.view.extent;
    return left + ((step - first) / (end - first)) * (right - left);
  }

  stepAt(x) {
    const {left, right} = this.place;
    const [first, end] = this.view.extent;
    return first + Math.min(Math.max((x - left) / (right - left), 0), 1) * (end - first);
  }

  bandOf(row) {
    return Math.min(indexAt(this.edges, row), this.place.bands - 1);
  }

  topOf(row) {
    return this.place.top + (this.bandOf(row) * this.place.band) / this.place.ratio;
  }

  bottomOf(row) {
    return this.topOf(row) + this.place.band / this.place.ratio;
  }

  middleOf(row) {
    return (this.topOf(row) + this.bottomOf(row)) / 2;
  }

  endOfRecord(step) {
    const {steps} = this.view.matrix;
    const at = indexAt(steps, step);
    return at + 1 < steps.length ? steps[at + 1] : endOf(steps);
  }

  // The row and the record under a point of the frame; null outside, `record` null beside the cells.
  under(x, y) {
    if (this.isEmpty || !this.place) return null;
    const {ratio, band, bands, left, right, top} = this.place;
    const index = Math.floor(((y - top) * ratio) / band);
    if (index < 0 || index >= bands || x > right) return null;
    const row = this.edges[index];
    if (x < left) return {row, record: null};
    const pixel = Math.min(Math.floor((x - left) * ratio), this.pixels.length / 2 - 1);
    const [start, stop] = [this.pixels[2 * pixel], this.pixels[2 * pixel + 1]];
    return {row, record: start < stop ? this.worstRecord(row, start, stop) : null};
  }

  worstRecord(row, start, stop) {
    let [worst, record] = [NaN, start];
    for (let s = start; s < stop; s++) {
      const {drawn} = this.cellAt(row, s);
      if (isWorse(drawn, worst, this.view.scale.centre)) [worst, record] = [drawn, s];
    }
    return record;
  }

  // What is drawn at a row and a record: the worst of the layers that share its band.
  cellAt(row, record) {
    const {matrix, cells, scale} = this.view;
    const layers = this.layersIn(this.bandOf(row));
    const drawn = (i) => cells[i * matrix.steps.length + record];
    let worst = layers[0];
    for (const i of layers) if (isWorse(drawn(i), drawn(worst), scale.centre)) worst = i;
    return {
      layer: matrix.layers[worst], shared: layers.length, step: matrix.steps[record], drawn: drawn(worst),
      value: matrix.data[record * matrix.layers.length + worst],
    };
  }

  describe({layer, shared, step, value}) {
    const among = shared > 1 ? `, the worst of ${shared} layers here` : '';
    return [`${clipped(layer.name || layer.type, 300)}${among}`, `${visible(layer.type)}, step ${step.toLocaleString('en')}`,
      `${this.view.matrix.metric.title}: ${written(this.view.matrix.metric, value)}`];
  }
}
