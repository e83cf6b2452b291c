// The bar of controls: which runs, which metric, which rows, and ways to take something along.

import {element, renew} from './dom.js';
import {clipped, deepest, visible} from './names.js';
import {SIGNS} from './severity.js';

const MOST_LEVELS = 6;
export const MOST_RUNS = 12;

export class Bar {
  // `actions`: {set(values), copy(), picture(), numbers()}.
  constructor(actions) {
    this.actions = actions;
    this.chooser = new RunChooser(actions);
    this.metric = element('select', {onchange: () => actions.set({metric: this.metric.value, finding: null})});
    this.fold = element('select', {onchange: () => actions.set({fold: {level: Number(this.fold.value), except: []}})});
    this.search = element('input', {type: 'search', placeholder: 'encoder.* !*.norm', size: 18, maxLength: 1000,
      title: 'Layers to show: parts of names, or patterns with * and ?; a leading ! excludes. Press / to come here.',
      oninput: () => actions.set({search: this.search.value})});
    this.colours = element('select', {onchange: () => actions.set({byContract: this.colours.value === 'bounds'})},
      element('option', {value: 'bounds'}, 'distance from bounds'), element('option', {value: 'values'}, 'values'));
    this.coloursLabel = labelled('Colours', this.colours);
    this.whole = element('button', {type: 'button', onclick: () => actions.set({zoom: null})}, 'Whole run');
    this.copied = element('span', {className: 'faint', role: 'status'});
    this.savers = [element('button', {type: 'button', onclick: actions.picture}, 'Save PNG'),
      element('button', {type: 'button', onclick: actions.numbers}, 'Save CSV')];
    this.node = element('div', {className: 'bar'}, this.chooser.node, labelled('Metric', this.metric),
      labelled('Rows', this.fold), labelled('Layers', this.search), this.coloursLabel, this.whole,
      element('span', {className: 'actions'}, this.copied,
        element('button', {type: 'button', onclick: () => this.copy()}, 'Copy link'), ...this.savers));
  }

  update({runs, state, metrics, layers, contract, isDrawn}) {
    this.chooser.update(runs, state.runs);
    options(this.metric, metrics.map(({name, title}) => [name, visible(title)]), state.metric);
    const levels = Math.min(deepest(layers), MOST_LEVELS);
    options(this.fold, [['0', 'each layer'], ...Array.from({length: levels}, (_, i) =>
      [String(i + 1), `modules, ${i + 1} deep`])], String(state.fold.level));
    if (document.activeElement !== this.search) this.search.value = state.search;
    this.coloursLabel.hidden = !contract;
    this.colours.value = state.byContract ? 'bounds' : 'values';
    this.whole.hidden = !state.zoom;
    for (const button of this.savers) button.disabled = !isDrawn;
  }

  async copy() {
    const isDone = await this.actions.copy();
    this.copied.textContent = isDone ? 'Copied.' : 'The browser did not allow it: the link is in the address bar.';
    setTimeout(() => { this.copied.textContent = ''; }, 4000);
  }
}

class RunChooser {
  constructor(actions) {
    this.actions = actions;
    this.heading = element('summary');
    this.filter = element('input', {type: 'search', placeholder: 'filter', 'aria-label': 'Filter the runs',
      oninput: () => this.list()});
    this.rows = element('ul');
    this.full = element('p', {className: 'faint', hidden: true}, `At most ${MOST_RUNS} runs are shown at once.`);
    this.node = element('details', {className: 'run-chooser', onkeydown: (event) => {
      if (event.key === 'Escape') this.node.open = false;
    }}, this.heading, element('div', {className: 'popover'}, this.filter, element('div', {className: 'choices'},
      element('button', {type: 'button', onclick: () => this.choose(this.matching())}, 'All'),
      element('button', {type: 'button', onclick: () => this.choose([])}, 'None')), this.full, this.rows));
    document.addEventListener('pointerdown', (event) => {
      if (!this.node.contains(event.target)) this.node.open = false;
    });
  }

  update(runs, chosen) {
    const same = JSON.stringify([runs, chosen]);
    if (same === this.last) return;
    Object.assign(this, {runs, chosen, last: same});
    const alone = chosen.length === 1 ? clipped(chosen[0], 28) : `${chosen.length}`;
    this.heading.textContent = `Runs: ${alone} of ${runs.length}`;
    this.list();
  }

  matching() {
    const wanted = this.filter.value.trim().toLowerCase();
    return this.runs.map((run) => run.name).filter((name) => name.toLowerCase().includes(wanted));
  }

  list() {
    const names = new Set(this.matching());
    this.full.hidden = this.chosen.length < MOST_RUNS;
    renew(this.rows, ...this.runs.filter((run) => names.has(run.name)).map((run) => this.row(run)));
  }

  row({name, severity, last_step: step}) {
    const box = element('input', {type: 'checkbox', 'data-key': name, checked: this.chosen.includes(name), onchange: () => {
      this.choose(box.checked ? [...this.chosen, name] : this.chosen.filter((one) => one !== name));
    }});
    return element('li', {}, element('label', {title: visible(name)}, box,
      element('span', {className: `sign ${severity ?? 'unjudged'}`, title: severity ?? 'not judged yet'}, SIGNS[severity] ?? SIGNS.unjudged),
      element('bdi', {}, clipped(name, 48)), element('span', {className: 'faint'}, `step ${(step ?? 0).toLocaleString('en')}`)));
  }

  choose(names) {
    const order = this.runs.map((run) => run.name).filter((name) => names.includes(name));
    this.actions.set({runs: order.slice(0, MOST_RUNS), finding: null});
  }
}

function labelled(words, control) {
  return element('label', {}, element('span', {}, words), control);
}

function options(select, entries, value) {
  const same = entries.length === select.options.length
    && entries.every(([name, text], i) => select.options[i].value === name && select.options[i].text === text);
  if (!same) select.replaceChildren(...entries.map(([name, text]) => element('option', {value: name}, text)));
  select.value = value;
}
