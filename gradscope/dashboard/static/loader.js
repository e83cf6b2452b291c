// Fetches what the page wants to show, keeps it, and fetches again only what has changed.

import {joined} from './source.js';

const FIRST_RECORDS = 250;
const KEPT_BYTES = 300e6;

export class Loader {
  // `changed()` is called whenever something has arrived.
  constructor(source, changed) {
    Object.assign(this, {source, changed, runs: null, error: null, seconds: 0});
    this.held = new Map();
    this.wanted = new Set();
  }

  // The longest that a question took which is asked again and again, since this was asked last.
  takeSeconds() {
    const {seconds} = this;
    this.seconds = 0;
    return seconds;
  }

  async list() {
    const started = performance.now();
    try {
      const runs = await this.source.runs();
      this.error = null;
      if (JSON.stringify(runs) !== JSON.stringify(this.runs)) {
        this.runs = runs;
        this.changed();
      }
    } catch (error) {
      this.error = error.message;
      this.changed();
    }
    this.seconds = Math.max(this.seconds, (performance.now() - started) / 1000);
  }

  // Asks for what is not there yet, or no longer as the run is; nothing that is there goes before its successor comes.
  want({runs, metric, layer}) {
    this.wish = {runs, metric, layer};
    // All of it from the start, and not what is fetched now: else what is too large to be kept would go for one
    // another, and be fetched in turns for ever.
    const wanted = runs.flatMap((name) => [['matrix', name, metric], ['summary', name], ['layer', name, layer]]);
    this.wanted = new Set(wanted.map((what) => JSON.stringify(what)));
    const listed = runs.map((name) => this.runs?.find((run) => run.name === name)).filter(Boolean);
    // The first pictures are not kept waiting: neither for all the records, nor for a verdict, which takes all metrics.
    const missing = listed.filter((run) => !this.has('matrix', run.name, metric));
    for (const run of missing.length ? missing : listed) {
      this.fetch(run, ['matrix', run.name, metric], (old) => this.matrix(run.name, metric, old));
    }
    if (missing.length) return;
    for (const run of listed) {
      this.fetch(run, ['summary', run.name], () => this.source.summary(run.name));
      if (layer !== null && this.knows(run.name, layer)) {
        this.fetch(run, ['layer', run.name, layer], () => this.source.layer(run.name, layer));
      }
    }
  }

  has(...what) {
    return this.get(...what) !== null || this.errorOf(...what) !== null;
  }

  get(...what) {
    return this.held.get(JSON.stringify(what))?.value ?? null;
  }

  errorOf(...what) {
    return this.held.get(JSON.stringify(what))?.error ?? null;
  }

  get isBusy() {
    return [...this.held.values()].some((entry) => entry.isPending);
  }

  knows(name, layer) {
    return this.get('summary', name)?.summary.layers.some((one) => one.name === layer) ?? false;
  }

  async fetch(run, what, load) {
    const key = JSON.stringify(what);
    const entry = this.held.get(key) ?? {value: null, version: null, error: null, isPending: false};
    this.held.set(key, entry);
    if (entry.isPending || (entry.version === run.version && !entry.isPartial)) return;
    entry.isPending = true;
    const isFirst = entry.value === null;
    const started = performance.now();
    try {
      entry.value = await load(entry.value);
      entry.isPartial = isFirst && entry.value.complete === false;
      entry.error = null;
    } catch (error) {
      entry.error = error.message;
      entry.isPartial = false;
    }
    entry.version = run.version;
    entry.isPending = false;
    if (!isFirst) this.seconds = Math.max(this.seconds, (performance.now() - started) / 1000);
    this.forget();
    this.changed();
    this.want(this.wish);
  }

  // At first some records, to have a picture soon, then all, then what comes after.
  async matrix(name, metric, old) {
    if (!old) return this.source.matrix(name, metric, {records: FIRST_RECORDS});
    const after = old.complete ? old.token : undefined;
    const matrix = await this.source.matrix(name, metric, {after});
    return matrix.appended ? joined(old, matrix) : matrix;
  }

  // After an error the next look at the runs tries again.
  retry() {
    for (const entry of this.held.values()) if (entry.error) entry.version = null;
  }

  forget() {
    const size = ({value}) => value?.data?.byteLength ?? 0;
    let bytes = [...this.held.values()].reduce((sum, entry) => sum + size(entry), 0);
    for (const [key, entry] of this.held) {
      if (bytes <= KEPT_BYTES) return;
      if (this.wanted.has(key) || entry.isPending) continue;
      bytes -= size(entry);
      this.held.delete(key);
    }
  }
}
