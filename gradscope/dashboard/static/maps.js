// The heat maps of all runs shown, side by side on one scale.

import {endOf} from './bands.js';
import {element, whenChanged} from './dom.js';
import {HeatMap} from './heatmap.js';
import {Legend} from './legend.js';
import {finder, rowsOf} from './names.js';
import {drawn, hasContract, scaleOver} from './scale.js';
import {severityOf, worst} from './severity.js';

export class Maps {
  constructor(actions) {
    this.actions = actions;
    this.heading = element('h2');
    this.legend = new Legend();
    this.grid = element('div', {className: 'maps'});
    this.hint = element('p', {className: 'faint hint'},
      'Drag to zoom, click for a layer, double-click for the whole run. Where layers or records share a pixel, the worst is drawn.');
    this.node = element('section', {className: 'map-section', 'aria-label': 'Heat map'},
      element('div', {className: 'map-head'}, this.heading, this.legend.node), this.grid, this.hint);
    this.maps = new Map();
    this.known = new WeakMap();
    this.prepared = null;
    this.prepare = whenChanged((...of) => this.prepareAll(...of));
    this.redraw();
  }

  // The next update draws everything anew: the theme or the width is another.
  redraw() {
    this.draw = whenChanged(() => this.drawAll());
  }

  // `runs`: those with a matrix; `marked`: {run, layers, first, last}, the cells that a finding speaks of.
  update({runs, state, dark, marked}) {
    this.node.hidden = !runs.length;
    if (!runs.length) return;
    const {fold, search, byContract} = state;
    this.shown = runs;
    this.prepare(fold, search, byContract, dark, ...runs.flatMap((run) => [run.name, run.colour, run.matrix, run.severities]));
    this.place(state.zoom);
    this.draw(this.prepared, ...this.extent);
    for (const run of runs) {
      const ofRun = marked?.run === run.name ? marked : null;
      this.maps.get(run.name).point({layer: state.layer, step: state.step, marked: ofRun});
    }
  }

  // What does not depend on the zoom: the scale over all runs, and the rows of each.
  prepareAll(fold, search, byContract, dark) {
    const matrices = this.shown.map((run) => run.matrix);
    const {metric} = matrices[0];
    const contract = byContract && hasContract(metric, matrices);
    const cells = matrices.map((matrix) => this.drawnOf(matrix, contract));
    this.scale = scaleOver(metric, matrices, cells, contract, dark);
    this.heading.textContent = metric.title;
    this.legend.update(this.scale, dark);
    this.prepared = this.shown.map((run, i) => ({
      run, matrix: run.matrix, cells: cells[i], rows: rows(run, fold, search), scale: this.scale,
      alone: matrices.length === 1, searched: search.trim() !== '',
    }));
    this.grid.classList.toggle('several', matrices.length > 1);
    const nodes = this.shown.map((run) => this.mapOf(run).node);
    if (nodes.length !== this.grid.children.length || nodes.some((node, i) => node !== this.grid.children[i])) {
      this.grid.replaceChildren(...nodes);
    }
  }

  // The steps shown: those of all runs, or the part that was zoomed to.
  place(zoom) {
    const recorded = this.shown.map((run) => run.matrix.steps).filter((steps) => steps.length);
    this.whole = recorded.length ? [Math.min(...recorded.map((steps) => steps[0])), Math.max(...recorded.map(endOf))] : [0, 1];
    const [first, end] = zoom ?? this.whole;
    const within = [Math.max(first, this.whole[0]), Math.min(end, this.whole[1])];
    this.extent = within[0] < within[1] ? within : this.whole;
  }

  drawAll() {
    const {extent, whole} = this;
    for (const view of this.prepared) {
      this.mapOf(view.run).update({...view, extent, whole, layer: null, step: null, marked: null});
    }
  }

  mapOf(run) {
    if (!this.maps.has(run.name)) this.maps.set(run.name, new HeatMap(this.actions));
    return this.maps.get(run.name);
  }

  // Kept with the matrix that it comes from: taking logarithms of millions of cells is the dearest step of all.
  drawnOf(matrix, contract) {
    if (!this.known.has(matrix)) this.known.set(matrix, {});
    return (this.known.get(matrix)[contract] ??= drawn(matrix, contract));
  }
}

function rows(run, fold, search) {
  const {layers, measured} = run.matrix;
  const found = finder(search);
  return rowsOf(layers, measured.filter((i) => found(layers[i].name)), fold)
    .map((row) => ({...row, severity: worst(row.layers.map((i) => severityOf(layers[i].name, run.severities)))}));
}
