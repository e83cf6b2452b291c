// The findings of the runs shown: what happened, where, since when, and what to change.

import {LineChart} from './chart.js';
import {element, renew} from './dom.js';
import {clipped, visible} from './names.js';
import {counted, exact, number, steps} from './numbers.js';
import {SIGNS} from './severity.js';

const LISTED = 6;

export class Findings {
  // `show(run, finding)` takes the user to the cells concerned, `choose(layer)` to a layer.
  constructor({show, choose}) {
    Object.assign(this, {show, choose});
    this.list = element('div', {className: 'findings'});
    this.node = element('section', {'aria-label': 'Findings'}, element('h2', {}, 'Findings'), this.list);
    this.charts = [];
  }

  update(runs, chosen) {
    this.charts = [];
    const open = new Set([...this.list.querySelectorAll('details[open]')].map((details) => details.dataset.key));
    const judged = runs.filter((run) => run.summary);
    const sound = judged.filter((run) => !run.summary.summary.findings.length);
    renew(this.list, ...judged.filter((run) => !sound.includes(run)).flatMap((run) => this.ofRun(run, runs.length, chosen)),
      ...nothing(sound, runs.length));
    for (const details of this.list.querySelectorAll('details')) details.open = open.has(details.dataset.key);
    this.draw();
  }

  draw() {
    for (const chart of this.charts) chart.draw();
  }

  ofRun(run, many, chosen) {
    const {findings} = run.summary.summary;
    const head = many > 1 ? [element('h3', {}, element('span', {className: `swatch run-${run.colour}`}),
      element('bdi', {}, clipped(run.name, 60)))] : [];
    return [...head, ...findings.map((finding) => this.card(run, finding, chosen === keyOf(run, finding)))];
  }

  card(run, finding, isChosen) {
    const {code, severity, message, hint, cause} = finding;
    const title = run.summary.explanations[code]?.title;
    return element('article', {className: `finding ${severity}`, 'aria-current': isChosen ? 'true' : null},
      element('button', {className: 'finding-head', type: 'button', title: 'Show the cells concerned',
        onclick: () => this.show(run, finding)},
      element('span', {className: 'sign', 'aria-hidden': 'true'}, SIGNS[severity]),
      element('span', {}, element('strong', {}, title ?? visible(code)), ' ',
        element('span', {className: 'faint'}, `${severity} ${visible(code)} · ${steps(finding.first_step, finding.last_step)}`))),
      element('p', {className: 'layers'}, ...this.layers(finding)),
      element('p', {}, visible(message)),
      element('p', {className: 'cure'}, element('strong', {}, 'What to change: '), visible(hint)),
      cause ? element('p', {className: 'faint'}, `Follows from ${visible(cause)}: cure that first.`) : null,
      this.evidence(run, finding),
      this.flight(run, code));
  }

  layers({layers}) {
    if (!layers.length) return ['The whole net'];
    const named = layers.slice(0, LISTED).flatMap((name, i) => [i ? ', ' : '', element('button', {
      className: 'layer-link', type: 'button', title: visible(name), onclick: () => this.choose(name),
    }, element('bdi', {}, clipped(name || '(the model itself)', 40)))]);
    const more = layers.length - LISTED;
    return more > 0 ? [...named, ` and ${more.toLocaleString('en')} more`] : named;
  }

  evidence(run, finding) {
    const entries = Object.entries(finding.evidence);
    if (!entries.length) return null;
    return element('details', {'data-key': `evidence ${keyOf(run, finding)}`}, element('summary', {}, 'Evidence'),
      element('table', {}, element('tbody', {}, ...entries.map(([name, value]) => element('tr', {},
        element('th', {scope: 'row'}, visible(name).replaceAll('_', ' ')), element('td', {}, exact(number(value))))))));
  }

  // What the flight recorder held: every one of the steps before the finding.
  flight(run, code) {
    const flight = run.summary.summary.flights[code];
    if (!flight || flight.steps.length < 2) return null;
    const chart = new LineChart();
    const norms = flight.layers.map((name, i) => ({
      name: clipped(name, 40), className: 'of-layer', xs: flight.steps, ys: flight.grad_norm.map((row) => row[i] ?? Infinity),
    }));
    chart.update({
      title: [`Every one of ${steps(flight.steps[0], flight.steps[flight.steps.length - 1])}: loss (bold), gradient norms (thin)`],
      label: `Loss and gradient norms of ${flight.layers.length} layers in every step around the finding`, height: 150,
      extent: [flight.steps[0], flight.steps[flight.steps.length - 1]], logarithmic: true,
      series: [...norms, {name: 'loss', className: 'loss', xs: flight.steps, ys: flight.loss.map((x) => x ?? Infinity)}],
    });
    this.charts.push(chart);
    return chart.node;
  }
}

function nothing(runs, many) {
  if (!runs.length) return [];
  const names = runs.length > 4 ? [` in ${counted(runs.length, 'run')}`]
    : runs.flatMap((run, i) => [i ? ', ' : ' in ', element('bdi', {}, clipped(run.name, 40))]);
  return [element('p', {className: 'faint'}, 'Nothing found', ...(many > 1 ? names : []), '.')];
}

export function keyOf(run, finding) {
  return `${run.name}:${finding.code}:${finding.first_step}`;
}
