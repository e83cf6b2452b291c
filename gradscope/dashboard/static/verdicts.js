// The verdict on each run that is shown, in one sentence, and the health of its layers in model order.

import {element} from './dom.js';
import {clipped, visible} from './names.js';
import {brief, counted, losses, steps} from './numbers.js';
import {SIGNS} from './severity.js';
import {HealthStrip} from './strip.js';

export class Verdicts {
  constructor(choose) {
    this.choose = choose;
    this.node = element('section', {className: 'verdicts', 'aria-label': 'Verdict'});
    this.strips = new Map();
  }

  update(runs) {
    this.node.classList.toggle('several', runs.length > 2);
    this.node.replaceChildren(...runs.map((run) => this.card(run)));
    for (const run of runs) {
      if (run.summary) {
        this.strip(run).update(run.summary.summary.layers, run.summary.layer_severity, run.summary.severity !== 'unjudged');
      }
    }
  }

  draw() {
    for (const strip of this.strips.values()) strip.draw();
  }

  strip(run) {
    if (!this.strips.has(run.name)) this.strips.set(run.name, new HealthStrip(this.choose));
    return this.strips.get(run.name);
  }

  card(run) {
    const severity = run.summary?.severity ?? (run.error ? 'warning' : 'unjudged');
    return element('article', {className: `verdict ${severity}`},
      element('div', {className: 'verdict-head'},
        element('strong', {className: 'sentence'},
          element('span', {className: 'sign', 'aria-hidden': 'true'}, SIGNS[severity]), sentence(run)),
        element('span', {className: 'run-name'}, element('span', {className: `swatch run-${run.colour}`}),
          element('bdi', {title: visible(run.name)}, clipped(run.name, 60))),
        element('span', {className: 'faint'}, extent(run))),
      run.error && run.summary ? element('p', {className: 'note'}, '▲ ', run.error) : null,
      run.summary?.summary.layers.length ? this.strip(run).node : null);
  }
}

function sentence(run) {
  if (!run.summary) return run.error ?? 'Reading and judging…';
  const {verdict, summary} = run.summary;
  const stopped = summary.stop ? ` GradScope stopped the fit at step ${summary.stop.step}.` : '';
  return `${verdict[0].toUpperCase()}${verdict.slice(1)}.${stopped}`;
}

function extent(run) {
  if (!run.summary || !run.summary.summary.records) return '';
  const {records, first_step: first, last_step: last, layers} = run.summary.summary;
  const loss = losses(run.summary).filter((value) => !Number.isNaN(value));
  const told = (value) => (Number.isFinite(value) ? brief(value) : 'not finite');
  const fell = loss.length ? [`loss ${told(loss[0])} → ${told(loss[loss.length - 1])}`] : [];
  return [counted(records, 'record'), steps(first, last), counted(layers.length, 'layer'), ...fell].join(' · ');
}
