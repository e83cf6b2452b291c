// The page: what the user chose (State) and what has arrived (Loader) become what is shown.

import {About} from './about.js';
import {Bar, MOST_RUNS} from './bar.js';
import {Depth} from './depth.js';
import {element, hideTooltip, whenChanged} from './dom.js';
import {Findings, keyOf} from './findings.js';
import {followTheme, isShown, link, onLink, onReload, readLink, writeLink} from './host.js';
import {LayerPanel} from './layer.js';
import {Ledger} from './ledger.js';
import {Loader} from './loader.js';
import {Maps} from './maps.js';
import {finder, foldable, toggled} from './names.js';
import {saveNumbers, savePicture} from './save.js';
import {hasContract} from './scale.js';
import {INITIAL, State, fromLink, toLink} from './state.js';
import {Verdicts} from './verdicts.js';

const POLL_SECONDS = 5;
const [COLOURS, SHOWN_OF_REPORT] = [12, 6];
const BY_SEVERITY = ['critical', 'warning', 'info', 'unjudged', 'sound'];
const NONE = {};

export class App {
  constructor(root, source) {
    this.source = source;
    this.dark = false;
    this.loader = new Loader(source, () => this.later());
    this.state = new State(() => this.moved());
    this.build(root);
  }

  build(root) {
    const choose = (layer) => this.open({layer});
    const moveTo = (step) => step !== null && this.state.set({step});
    this.message = element('p', {className: 'message', role: 'status'}, 'Looking for runs…');
    this.bar = new Bar({set: (values) => this.state.set(values), copy: () => this.copy(),
      picture: () => savePicture(this.maps, this.dark),
      numbers: () => saveNumbers(this.withMatrix(), this.withMatrix()[0].matrix.metric)});
    this.verdicts = new Verdicts(choose);
    this.maps = new Maps({choose: (chosen) => this.open(chosen), zoom: (zoom) => this.state.set({zoom}),
      unfold: (module) => this.state.set({fold: toggled(this.state.values.fold, module)}),
      fold: (name) => this.foldAround(name), close: () => this.close()});
    this.depth = new Depth(moveTo);
    this.findings = new Findings({show: (run, finding) => this.show(run, finding), choose});
    this.layer = new LayerPanel({moveTo, close: () => this.close()});
    this.ledger = new Ledger(moveTo);
    this.about = new About();
    this.content = element('div', {className: 'content', hidden: true}, this.verdicts.node, element('div', {className: 'columns'},
      element('div', {className: 'column main'}, this.maps.node, this.depth.node, this.ledger.node),
      element('div', {className: 'column side'}, this.layer.node, this.findings.node, this.about.node)));
    this.node = element('main', {className: 'gradscope'},
      element('header', {}, element('h1', {}, 'GradScope'), this.bar.node), this.message, this.content);
    root.append(this.node);
    this.memorise();
  }

  // Each part is drawn anew only where something changed that it shows.
  memorise() {
    this.parts = {
      verdicts: whenChanged((runs) => this.verdicts.update(runs)),
      findings: whenChanged((runs, chosen) => this.findings.update(runs, chosen)),
      about: whenChanged((runs) => this.about.update(runs)),
      depth: whenChanged((runs, step, metric) => this.depth.update(runs, step, metric)),
      ledger: whenChanged((runs, first, end) => this.ledger.update(runs, [first, end], this.state.values.step)),
      layer: whenChanged((runs, layer, metrics, first, end) =>
        this.layer.update(runs, layer, metrics, [first, end], this.state.values.step)),
    };
    this.same = new Map();
  }

  start() {
    this.state.values = {...this.state.values, ...fromLink(readLink())};
    followTheme((dark) => {
      this.dark = dark;
      this.redraw();
      if (!this.content.hidden) this.render(); // at once: a printer does not wait for the next frame
    });
    onReload(() => this.poll());
    onLink((given) => this.state.set({...INITIAL, runs: this.state.values.runs, ...fromLink(given)}));
    document.addEventListener('keydown', (event) => this.typed(event));
    this.followWidth();
    return this.follow();
  }

  // Not the height, which is another whenever something is opened.
  followWidth() {
    let width = null;
    new ResizeObserver(() => {
      if (this.node.clientWidth !== width) this.redraw();
      width = this.node.clientWidth;
    }).observe(this.node);
  }

  async follow() {
    await this.poll();
    if (!this.source.isLive) return;
    // A server that takes long to answer is not asked more often for it.
    setTimeout(() => this.follow(), 1000 * Math.max(POLL_SECONDS, 10 * this.loader.takeSeconds()));
  }

  async poll() {
    if (!isShown() && this.loader.runs) return;
    this.loader.retry();
    await this.loader.list();
    this.begin();
    this.ask();
  }

  // The run that was written to last is the one that somebody is waiting for; a report was made of all it holds. What a
  // link names stands, there or not: a server that has just started has not read all runs yet.
  begin() {
    const runs = this.loader.runs ?? [];
    const linked = [...new Set(this.state.values.runs)].slice(0, MOST_RUNS);
    if (this.hasBegun || !runs.length) return;
    this.hasBegun = true;
    const newest = runs.reduce((last, run) => (run.last_wall_time > last.last_wall_time ? run : last));
    const all = this.source.isLive ? [newest.name] : sickestFirst(runs).slice(0, SHOWN_OF_REPORT).map((run) => run.name);
    this.state.set({runs: linked.length ? linked : all});
  }

  ask() {
    this.loader.want(this.state.values);
    this.later();
  }

  moved() {
    if (this.hasBegun) writeLink(toLink(this.state.values));
    this.ask();
  }

  later() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.render();
    });
  }

  // Forgets what was drawn: the theme or the width is another.
  redraw() {
    if (this.content.hidden) return;
    this.maps.redraw();
    for (const part of [this.verdicts, this.findings, this.depth.chart, this.ledger, this.layer]) part.draw();
    this.later();
  }

  render() {
    const {values} = this.state;
    const runs = this.runs();
    const metrics = this.metrics(runs);
    const matrices = runs.filter((run) => run.matrix).map((run) => run.matrix);
    this.say(runs);
    this.bar.update({runs: this.loader.runs ?? [], state: values, metrics, layers: matrices[0]?.layers ?? [],
      contract: matrices.length > 0 && hasContract(matrices[0].metric, matrices), isDrawn: matrices.length > 0});
    this.content.hidden = !runs.length;
    if (!runs.length) return;
    const loaded = this.kept('loaded', runs, ({summary, error, colour}) => [summary, error, colour]);
    const shown = this.shown(runs);
    this.parts.verdicts(loaded);
    this.parts.findings(loaded, values.finding);
    this.maps.update({runs: shown, state: values, dark: this.dark, marked: this.marked(runs)});
    this.drawLines(runs, loaded, shown, metrics);
    this.parts.about(loaded);
  }

  drawLines(runs, loaded, shown, metrics) {
    const {layer, step} = this.state.values;
    const extent = this.maps.extent ?? [0, 1];
    const opened = this.kept('opened', runs, ({series, summary}) => [series, summary, layer]);
    this.parts.layer(opened, layer, this.kept('metrics', metrics, ({name, title}) => [name, title]), ...extent);
    this.layer.point(step);
    this.bringIntoSight();
    this.depth.node.hidden = !shown.some((run) => run.matrix.steps.length);
    if (shown.length) this.parts.depth(shown, step, shown[0].matrix.metric);
    this.parts.ledger(loaded, ...extent);
    this.ledger.point(step);
  }

  // The runs with a matrix. While others are on their way, what was shown before stays: nothing flickers.
  shown(runs) {
    const now = runs.filter((run) => run.matrix);
    const isReady = runs.every((run) => run.matrix || run.error);
    const before = this.same.get('shown')?.list ?? [];
    return isReady || !before.length ? this.kept('shown', now, (run) => [run.matrix, run.severities, run.colour]) : before;
  }

  // The list as it was given last, as long as what `parts` takes of each of its members is the same.
  kept(name, list, parts) {
    const now = list.flatMap((one) => [one.name, ...parts(one)]);
    const last = this.same.get(name);
    if (last && last.now.length === now.length && now.every((value, i) => Object.is(value, last.now[i]))) return last.list;
    this.same.set(name, {now, list});
    return list;
  }

  runs() {
    const {runs, metric, layer} = this.state.values;
    return runs.map((name, i) => ({
      name, colour: i % COLOURS, info: this.loader.runs?.find((run) => run.name === name) ?? null,
      matrix: this.loader.get('matrix', name, metric), summary: this.loader.get('summary', name),
      severities: this.loader.get('summary', name)?.layer_severity ?? NONE,
      series: layer === null ? null : this.loader.get('layer', name, layer),
      error: this.loader.errorOf('summary', name) ?? this.loader.errorOf('matrix', name, metric) ?? this.lost(name),
    }));
  }

  lost(name) {
    const isThere = !this.loader.runs || this.loader.runs.some((run) => run.name === name);
    return isThere ? null : 'There is no run of this name: choose another above.';
  }

  withMatrix() {
    return this.runs().filter((run) => run.matrix);
  }

  metrics(runs) {
    const known = new Map();
    for (const run of runs) for (const metric of run.info?.metrics ?? []) if (!known.has(metric.name)) known.set(metric.name, metric);
    return [...known.values()];
  }

  say(runs) {
    const {error, runs: all} = this.loader;
    const words = error ?? (all === null ? 'Looking for runs…' : !all.length
      ? 'No run with GradScope data yet. Add GradScope() to the Trainer’s callbacks and log with a TensorBoardLogger; this page looks again every few seconds.'
      : !runs.length ? 'No run is chosen: open “Runs” above.' : '');
    this.message.textContent = words;
    this.message.hidden = !words;
    this.message.classList.toggle('error', Boolean(error));
    this.node.setAttribute('aria-busy', String(this.loader.isBusy));
  }

  marked(runs) {
    for (const run of runs) {
      const finding = run.summary?.summary.findings.find((one) => keyOf(run, one) === this.state.values.finding);
      if (finding) return {run: run.name, layers: finding.layers, first: finding.first_step, last: finding.last_step};
    }
    return null;
  }

  // To the cells that a finding speaks of: its metric, the step where it began, and all of its steps in sight.
  show(run, finding) {
    const about = run.summary.explanations[finding.code];
    const has = this.metrics([{info: this.loader.runs.find((one) => one.name === run.name)}]).some(({name}) => name === about?.metric);
    const isOpen = this.state.values.layer !== null;
    this.state.set({
      finding: keyOf(run, finding), metric: has ? about.metric : this.state.values.metric, step: finding.first_step,
      layer: isOpen ? finding.layers[0] ?? null : null, search: '', zoom: null,
    });
    this.maps.mapOf(run).node.scrollIntoView({block: 'nearest', behavior: 'smooth'});
  }

  open(chosen) {
    this.isOpening = chosen.layer !== this.state.values.layer;
    this.state.set(chosen);
  }

  // A layer that was just opened, should its panel be elsewhere on the page.
  bringIntoSight() {
    if (!this.isOpening || this.layer.node.hidden) return;
    this.isOpening = false;
    this.layer.heading.scrollIntoView({block: 'nearest', behavior: 'smooth'});
  }

  foldAround(name) {
    const {fold, search} = this.state.values;
    const found = finder(search);
    const rows = this.withMatrix().flatMap(({matrix}) => matrix.measured.map((i) => matrix.layers[i]).filter((one) => found(one.name)));
    const module = foldable(name, [...new Map(rows.map((layer) => [layer.name, layer])).values()], fold);
    if (module !== null) this.state.set({fold: toggled(fold, module)});
  }

  close() {
    hideTooltip();
    this.state.set({layer: null, finding: null});
  }

  typed(event) {
    const isWriting = event.target.closest?.('input, select, textarea');
    if (event.key === '/' && !isWriting && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.bar.search.focus();
    } else if (event.key === 'Escape' && event.target === this.bar.search) {
      this.bar.search.value = '';
      this.state.set({search: ''});
    } else if (event.key === 'Escape' && !isWriting && !event.defaultPrevented) this.close();
  }

  async copy() {
    writeLink(toLink(this.state.values));
    try {
      await navigator.clipboard.writeText(link());
      return true;
    } catch {
      return false;
    }
  }
}

function sickestFirst(runs) {
  const rank = ({severity}) => BY_SEVERITY.indexOf(severity ?? 'unjudged');
  return [...runs].sort((one, other) => rank(one) - rank(other));
}
