// One layer through and through: all that was measured of it over the steps, thresholds drawn in, the loss beneath.

import {LineChart} from './chart.js';
import {element} from './dom.js';
import {clipped, visible} from './names.js';
import {isWide, losses, number} from './numbers.js';
import {isLogarithmic} from './scale.js';
import {SIGNS, severityOf} from './severity.js';

const TOGETHER = {grad_norm_clipped: 'grad_norm'};
const HEIGHT = 96;

export class LayerPanel {
  constructor({moveTo, close}) {
    Object.assign(this, {moveTo});
    this.heading = element('h2');
    this.facts = element('p', {className: 'faint'});
    this.body = element('div', {className: 'layer-charts'});
    this.node = element('section', {className: 'layer-panel', 'aria-label': 'Layer', hidden: true},
      element('div', {className: 'panel-head'}, this.heading,
        element('button', {type: 'button', className: 'plain', title: 'Close (Escape)', 'aria-label': 'Close', onclick: close}, '✕')),
      this.facts, this.body);
    this.charts = new Map();
  }

  // `runs`: those that are shown, with `series` of the layer where it has arrived; `extent` the steps shown.
  update(runs, layer, metrics, extent, step) {
    this.node.hidden = layer === null;
    if (layer === null) return;
    const there = runs.filter((run) => run.series);
    this.heading.replaceChildren(element('bdi', {title: visible(layer)}, clipped(layer || '(the model itself)', 60)));
    this.facts.textContent = this.about(runs, there, layer);
    const charts = there.length ? [...this.ofMetrics(there, metrics), this.ofLoss(there)].filter(Boolean) : [];
    this.body.replaceChildren(...charts.map(([key]) => this.chart(key).node));
    for (const [key, view] of charts) this.chart(key).update({extent, cursor: step, height: HEIGHT, ...view});
  }

  draw() {
    for (const chart of this.charts.values()) if (chart.node.isConnected) chart.draw();
  }

  point(step) {
    for (const chart of this.charts.values()) if (chart.node.isConnected) chart.point(step);
  }

  chart(key) {
    if (!this.charts.has(key)) this.charts.set(key, new LineChart(this.moveTo));
    return this.charts.get(key);
  }

  about(runs, there, layer) {
    if (!there.length) {
      const waiting = runs.some((run) => !run.summary || run.summary.summary.layers.some((one) => one.name === layer));
      const isNamed = runs.some((run) => severityOf(layer, run.summary?.layer_severity ?? {}));
      if (isNamed) return 'A finding names this module. Nothing is measured of it by itself.';
      return waiting ? 'Loading…' : 'None of the runs shown has a layer of this name.';
    }
    const inRuns = (words, of) => (runs.length > 1 ? `${words} in ${of.map((run) => clipped(run.name, 24)).join(', ')}` : words);
    const kinds = grouped(there, ({series: {layer: {type, kind}}}) => `${visible(type)}, ${visible(kind).replaceAll('_', ' ')}`);
    const hits = grouped(there, (run) => severityOf(layer, run.summary?.layer_severity ?? {}));
    return [
      ...[...kinds].map(([words, of]) => (kinds.size > 1 ? inRuns(words, of) : words)),
      ...[...hits].filter(([hit]) => hit).map(([hit, of]) => inRuns(`${SIGNS[hit]} named by a finding (${hit})`, of)),
    ].join(' · ');
  }

  ofMetrics(runs, metrics) {
    const names = new Set(runs.flatMap((run) => Object.keys(run.series.metrics)));
    const columns = metrics.filter(({name}) => names.has(name) && !TOGETHER[name]);
    const isQuiet = ({name}) => runs.every((run) => (run.series.metrics[name] ?? []).every((value) => !value));
    return [...columns.filter((one) => !isQuiet(one)), ...columns.filter(isQuiet)].map((metric) => {
      const parts = [metric.name, ...Object.keys(TOGETHER).filter((name) => TOGETHER[name] === metric.name && runs.some((run) =>
        differs(run.series.metrics, name, metric.name)))];
      return [metric.name, {
        title: [metric.title, ...this.legend(runs, parts)], label: `${metric.title} over steps`,
        logarithmic: isLogarithmic(metric), ...thresholds(metric, runs),
        series: runs.flatMap((run) => parts.map((name, i) => line(run, runs.length, metrics, name, i))).filter(Boolean),
      }];
    });
  }

  legend(runs, parts) {
    if (parts.length < 2) return [];
    return [element('span', {className: 'faint'}, ' · ', element('span', {className: 'key-line'}), ' before, ',
      element('span', {className: 'key-line dashed'}), ' after clipping')];
  }

  ofLoss(runs) {
    const series = runs.filter((run) => run.summary?.globals.loss).map((run) => ({
      name: runs.length > 1 ? `loss, ${clipped(run.name, 24)}` : 'loss', className: `run-${run.colour}`,
      xs: run.summary.steps, ys: losses(run.summary),
    }));
    return series.length ? ['loss', {title: ['loss'], label: 'Loss over steps', logarithmic: isWide(series), series}] : null;
  }
}

function grouped(runs, by) {
  const groups = new Map();
  for (const run of runs) groups.set(by(run), [...(groups.get(by(run)) ?? []), run]);
  return groups;
}

// What clipping never touched needs no second line.
function differs(metrics, name, other) {
  return metrics[name]?.some((value, i) => Math.abs(value - metrics[other]?.[i]) > 1e-4 * Math.abs(value)) ?? false;
}

function line(run, runs, metrics, name, part) {
  const values = run.series.metrics[name];
  if (!values) return null;
  const title = metrics.find((metric) => metric.name === name)?.title ?? name;
  return {
    name: runs > 1 ? `${title}, ${clipped(run.name, 24)}` : title, className: `run-${run.colour}${part ? ' dashed' : ''}`,
    xs: run.series.steps, ys: values.map(number),
  };
}

// The stated range of this kind of layer, and the bounds that the rules judge by and that are named after the metric.
function thresholds(metric, runs) {
  const {kind} = runs[0].series.layer;
  const isOne = runs.every((run) => run.series.layer.kind === kind);
  const band = isOne && Object.hasOwn(metric.healthy ?? {}, kind) ? metric.healthy[kind] : null;
  const judged = Object.entries(runs[0].summary?.thresholds ?? {});
  const lines = judged
    .filter(([name, value]) => typeof value === 'number' && [metric.name, `${metric.name}_high`, `${metric.name}_low`].includes(name))
    .map(([name, at]) => ({at, text: name.replaceAll('_', ' ')}));
  return {
    band, lines, range: metric.unit === 'fraction' ? [0, 1] : metric.unit === 'flags' ? [0, 7] : null,
  };
}
