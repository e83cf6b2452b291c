// What was measured and what was not, what was wrong with the log, and what GradScope cost.

import {element, renew} from './dom.js';
import {clipped, visible} from './names.js';
import {counted, exact} from './numbers.js';

const LISTED = 8;

export class About {
  constructor() {
    this.body = element('div');
    this.node = element('section', {'aria-label': 'What was not seen, and what it cost'},
      element('h2', {}, 'Seen, not seen, and the cost'), this.body);
  }

  update(runs) {
    const there = runs.filter((run) => run.summary);
    this.node.hidden = !there.length;
    renew(this.body, ...there.map((run) => ofRun(run, there.length)));
  }
}

// Of several runs each can be opened; one with something to say about its log is open from the start.
function ofRun(run, number) {
  const {coverage, notes, overhead} = run.summary.summary;
  const measured = Object.entries(coverage.measured).filter(([, many]) => many)
    .map(([what, many]) => counted(many, visible(what).replace(/s$/, '')));
  const told = [
    ...notes.map((note) => element('p', {className: 'note'}, '▲ ', visible(note))),
    measured.length ? element('p', {}, `Measured: ${measured.join(', ')}.`) : null,
    ...notSeen(coverage.unseen),
    element('p', {}, cost(overhead)),
  ];
  if (number === 1) return element('div', {className: 'about'}, ...told);
  return element('details', {className: 'about', open: notes.length > 0}, element('summary', {},
    element('span', {className: `swatch run-${run.colour}`}), element('bdi', {}, clipped(run.name, 60))), ...told);
}

function notSeen(unseen) {
  const reasons = new Map();
  for (const [name, reason] of Object.entries(unseen)) reasons.set(reason, [...(reasons.get(reason) ?? []), name]);
  if (!reasons.size) return [element('p', {}, 'Nothing is known to have been missed.')];
  return [...reasons].map(([reason, names]) => element('p', {}, 'Not seen: ',
    element('bdi', {title: names.map(visible).join('\n')}, names.slice(0, LISTED).map((name) => clipped(name, 50)).join(', ')),
    names.length > LISTED ? ` and ${names.length - LISTED} more` : '', ` (${visible(reason)}).`));
}

function cost({records, gradscope_seconds: spent, fit_seconds: fit, every_n_steps: every}) {
  if (!(fit > 0) || spent === null) return 'What GradScope cost is written at the end of a fit.';
  const interval = every ? `, one every ${counted(every, 'step')}` : '';
  return `GradScope took ${exact(Number(((100 * spent) / fit).toPrecision(2)))} % of ${exact(Number(fit.toPrecision(3)))} s ` +
    `on the host, over ${counted(records, 'record')}${interval}.`;
}
