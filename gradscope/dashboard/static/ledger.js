// The ledger of steps: loss, total gradient norm before and after clipping, loss scale, and the steps that went wrong.

import {LineChart} from './chart.js';
import {element, renew, whenChanged} from './dom.js';
import {clipped} from './names.js';
import {counted, exact, isWide, number} from './numbers.js';

const ROWS = 20;
const CHARTS = [
  {title: 'loss', names: ['loss'], logarithmic: false},
  {title: 'total gradient norm', names: ['total_norm', 'total_norm_clipped'], logarithmic: true},
  {title: 'clip coefficient', names: ['clip_coefficient'], logarithmic: false},
  {title: 'loss scale', names: ['loss_scale'], logarithmic: true},
];
const TITLES = {
  loss: 'loss', total_norm: 'total norm', total_norm_clipped: 'after clipping', clip_coefficient: 'clip coefficient',
  loss_scale: 'loss scale', skipped: 'skipped', nonfinite_loss: 'loss not finite',
};

export class Ledger {
  constructor(moveTo) {
    this.charts = CHARTS.map(() => new LineChart(moveTo));
    this.body = element('div', {className: 'ledger-charts'});
    this.counts = element('div');
    this.tables = element('div');
    this.node = element('section', {'aria-label': 'Ledger of steps'}, element('h2', {}, 'Ledger of steps'),
      this.counts, this.body, this.tables);
    this.tell = whenChanged((known) => this.tellAll(known.filter((run) => run.summary)));
  }

  update(runs, extent, step) {
    const there = runs.filter((run) => run.summary);
    this.node.hidden = !there.length;
    this.tell(runs);
    const shown = CHARTS.map((chart, i) => [this.charts[i], view(chart, there)]).filter(([, {series}]) => series.length);
    this.body.replaceChildren(...shown.map(([chart]) => chart.node));
    for (const [chart, content] of shown) chart.update({height: 110, extent, cursor: step, ...content});
  }

  tellAll(there) {
    this.counts.replaceChildren(...there.map((run) => counts(run, there.length)).filter(Boolean));
    const isOpen = this.tables.querySelector('details')?.open;
    renew(this.tables, ...there.map((run) => table(run)));
    for (const details of this.tables.querySelectorAll('details')) details.open = Boolean(isOpen);
  }

  draw() {
    for (const chart of this.charts) if (chart.node.isConnected) chart.draw();
  }

  point(step) {
    for (const chart of this.charts) if (chart.node.isConnected) chart.point(step);
  }
}

function view({title, names, logarithmic}, runs) {
  const series = runs.flatMap((run) => names.filter((name) => worthwhile(run, name)).map((name) => ({
    name: runs.length > 1 ? `${TITLES[name]}, ${clipped(run.name, 24)}` : TITLES[name],
    className: `run-${run.colour}${name === 'total_norm_clipped' ? ' dashed' : ''}`,
    xs: run.summary.steps, ys: lostIsInfinite(run.summary, name),
  })));
  const clipping = series.some(({className}) => className.includes('dashed'));
  const wide = logarithmic || (names[0] === 'loss' && isWide(series));
  return {title: [clipping ? `${title}, dashed after clipping` : title], label: `${title} over steps`, logarithmic: wide, series};
}

// What clipping never touched needs no second line.
function worthwhile(run, name) {
  const values = run.summary.globals[name];
  if (!values) return false;
  const isAboutClipping = name === 'total_norm_clipped' || name === 'clip_coefficient';
  return !isAboutClipping || (run.summary.globals.clip_coefficient ?? []).some((x) => number(x) < 0.9999);
}

// Where the loss was no number, the norm of its gradients was none either.
function lostIsInfinite({globals}, name) {
  const isOfGradients = ['loss', 'total_norm', 'total_norm_clipped'].includes(name);
  return globals[name].map((value, i) => (isOfGradients && value === null && globals.nonfinite_loss?.[i] === 1 ? Infinity : number(value)));
}

function counts(run, many) {
  const {ledger, origin} = run.summary.summary;
  const lost = (run.summary.globals.nonfinite_loss ?? []).filter((x) => x === 1).length;
  const parts = [counted(ledger.steps, 'optimizer step'), ledger.skipped ? `${ledger.skipped.toLocaleString('en')} skipped` : null,
    lost ? `loss not finite in ${counted(lost, 'record')}` : null, origin ? born(origin) : null].filter(Boolean);
  if (!ledger.steps && parts.length < 2) return null;
  const name = many > 1 ? [element('span', {className: `swatch run-${run.colour}`}), element('bdi', {}, clipped(run.name, 60)), ': '] : [];
  return element('p', {}, ...name, parts.join(' · '));
}

function born({step, module, direction, operation}) {
  const where = module ? `in ${clipped(module, 60)}` : 'outside of any module';
  return `first NaN or infinity at step ${step} ${where}, ${direction}${operation ? ` (${clipped(operation, 40)})` : ''}`;
}

function table(run) {
  const names = Object.keys(TITLES).filter((name) => run.summary.globals[name]);
  const {steps} = run.summary;
  const first = Math.max(0, steps.length - ROWS);
  return element('details', {}, element('summary', {}, `The last ${counted(steps.length - first, 'record')} of `,
    element('bdi', {}, clipped(run.name, 60))),
  element('div', {className: 'wide'}, element('table', {},
    element('thead', {}, element('tr', {}, ...['step', ...names.map((name) => TITLES[name])].map((title) =>
      element('th', {scope: 'col'}, title)))),
    element('tbody', {}, ...steps.slice(first).map((step, i) => element('tr', {},
      element('th', {scope: 'row'}, step.toLocaleString('en')),
      ...names.map((name) => element('td', {}, cell(name, run.summary.globals[name][first + i])))))))));
}

function cell(name, value) {
  if (name === 'skipped' || name === 'nonfinite_loss') return value === 1 ? 'yes' : '';
  return value === null ? '' : exact(number(value));
}
