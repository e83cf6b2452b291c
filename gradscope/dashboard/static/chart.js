// A line chart in SVG: lines over steps or over depth, with thresholds, a cursor and exact values under the pointer.

import {element, hideTooltip, showTooltip, svg} from './dom.js';
import {brief, exact, indexAt, power, someTicks, ticks} from './numbers.js';

const [LEFT, RIGHT, TOP, BOTTOM] = [48, 10, 6, 20];

export class LineChart {
  // `pick(x)` is told where the user clicks.
  constructor(pick = null) {
    this.canvas = svg('svg', {class: 'chart', role: 'img', onpointermove: (event) => this.hovered(event),
      onpointerleave: () => this.left(), onclick: (event) => pick && this.view && pick(this.nearest(event))});
    this.title = element('figcaption');
    this.node = element('figure', {className: 'line-chart'}, this.title, this.canvas);
  }

  // `view`: {title, label, height, extent, logarithmic, series, band, lines, cursor, axis, describe, range}.
  // A series is {name, className, xs, ys}; `band` the healthy range, `lines` thresholds [{at, text}], `axis` marks of
  // the x-axis [{at, text}], `describe(x)` what the pointer shows of an x.
  update(view) {
    this.view = view;
    this.title.replaceChildren(...(view.title ?? []));
    this.canvas.setAttribute('aria-label', view.label);
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth;
    if (!this.view || !width) return;
    const {height} = this.view;
    const [low, high] = this.range();
    this.place = {width, height, low, high};
    this.canvas.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.canvas.setAttribute('height', height);
    this.pointer = svg('line', {class: 'pointer', y1: TOP, y2: height - BOTTOM, visibility: 'hidden'});
    this.canvas.replaceChildren(...this.ground(), ...this.axes(), ...this.thresholds(), ...this.lines(),
      ...this.cursor(), this.pointer);
  }

  // The cursor alone, as a slider moves.
  point(cursor) {
    if (!this.place) return;
    this.view.cursor = cursor;
    this.canvas.querySelector('.cursor')?.remove();
    this.canvas.append(...this.cursor());
  }

  shown(value) {
    return this.view.logarithmic ? Math.log10(value) : value;
  }

  range() {
    const {series, extent: [first, end], logarithmic, band, range} = this.view;
    if (range) return range;
    let [low, high] = [Infinity, -Infinity];
    const reach = (value) => {
      const shown = this.shown(value);
      if (Number.isFinite(shown)) [low, high] = [Math.min(low, shown), Math.max(high, shown)];
    };
    for (const {xs, ys} of series) {
      for (let i = 0; i < xs.length; i++) if (xs[i] >= first && xs[i] <= end) reach(ys[i]);
    }
    if (band) band.forEach(reach);
    if (low > high) return logarithmic ? [-1, 0] : [0, 1];
    const least = logarithmic ? 0.5 : Math.abs(high) * 1e-3 || 1;
    const margin = Math.max((high - low) * 0.06, (least - (high - low)) / 2);
    return [low - margin, high + margin];
  }

  x(at) {
    const {extent: [first, end]} = this.view;
    return LEFT + ((at - first) / (end - first || 1)) * (this.place.width - LEFT - RIGHT);
  }

  y(shown) {
    const {low, high, height} = this.place;
    return TOP + ((high - shown) / (high - low)) * (height - TOP - BOTTOM);
  }

  ground() {
    const {width, height} = this.place;
    const parts = [svg('rect', {class: 'ground', x: LEFT, y: TOP, width: width - LEFT - RIGHT,
      height: height - TOP - BOTTOM})];
    if (this.view.band) {
      const [bottom, top] = this.view.band.map((value) => this.y(Math.max(this.place.low,
        Math.min(this.place.high, this.shown(value)))));
      parts.push(svg('rect', {class: 'healthy', x: LEFT, y: top, width: width - LEFT - RIGHT,
        height: Math.max(0, bottom - top)}));
    }
    return parts;
  }

  axes() {
    const {width, height, low, high} = this.place;
    const {extent, axis} = this.view;
    const values = this.marks(low, high, height > 110 ? 4 : 2);
    const across = axis ?? someTicks(...extent, (width - LEFT) / 90, true)
      .map((at) => ({at, text: at.toLocaleString('en')}));
    return [
      ...values.flatMap((value) => [
        svg('line', {class: 'grid', x1: LEFT, x2: width - RIGHT, y1: this.y(value), y2: this.y(value)}),
        svg('text', {x: LEFT - 5, y: this.y(value) + 4, 'text-anchor': 'end'}, this.written(value)),
      ]),
      ...across.map(({at, text}) => svg('text', {x: this.x(at), y: height - 5,
        'text-anchor': this.x(at) > width - 30 ? 'end' : this.x(at) < LEFT + 10 ? 'start' : 'middle'}, text)),
    ];
  }

  // Whether the axis is long enough for powers of ten: two of them at least.
  get inDecades() {
    const {low, high} = this.place;
    return high - low >= 1.5 && Math.floor(high) > Math.ceil(low);
  }

  // Decades where there are some, else round numbers.
  marks(low, high, count) {
    if (!this.view.logarithmic) return someTicks(low, high, count);
    return this.inDecades ? ticks(low, high, count, true) : someTicks(10 ** low, 10 ** high, count).map(Math.log10);
  }

  written(value) {
    if (!this.view.logarithmic) return brief(value);
    return this.inDecades ? power(value) : brief(Number((10 ** value).toPrecision(6)));
  }

  thresholds() {
    const {low, high, width} = this.place;
    return (this.view.lines ?? []).filter(({at}) => this.shown(at) > low && this.shown(at) < high).flatMap(({at, text}) => [
      svg('line', {class: 'threshold', x1: LEFT, x2: width - RIGHT, y1: this.y(this.shown(at)), y2: this.y(this.shown(at))}),
      svg('text', {class: 'threshold-text', x: width - RIGHT - 3, y: this.y(this.shown(at)) - 3, 'text-anchor': 'end'}, text),
    ]);
  }

  lines() {
    const {extent: [first, end]} = this.view;
    return this.view.series.flatMap(({className, xs, ys}) => {
      const marks = [];
      let path = '';
      let isDown = false;
      for (let i = 0; i < xs.length; i++) {
        const shown = this.shown(ys[i]);
        if (xs[i] < first || xs[i] > end || !Number.isFinite(shown)) {
          isDown = false;
          if (xs[i] >= first && xs[i] <= end) marks.push(...this.odd(xs[i], ys[i]));
          continue;
        }
        const goesOn = xs[i + 1] <= end && Number.isFinite(this.shown(ys[i + 1]));
        path += `${isDown ? 'L' : 'M'}${this.x(xs[i]).toFixed(1)},${this.y(shown).toFixed(1)}${isDown || goesOn ? '' : 'h0.01'}`;
        isDown = true;
      }
      return [svg('path', {class: `line ${className}`, d: path}), ...marks];
    });
  }

  // What has no place on the axis: a cross at the top where not finite, a tick at the bottom for an exact zero.
  odd(x, value) {
    if (Math.abs(value) === Infinity) {
      return [svg('text', {class: 'not-finite', x: this.x(x), y: TOP + 10, 'text-anchor': 'middle'}, '✖')];
    }
    if (value !== 0) return [];
    const bottom = this.place.height - BOTTOM;
    return [svg('line', {class: 'zero', x1: this.x(x), x2: this.x(x), y1: bottom, y2: bottom - 6})];
  }

  cursor() {
    const {cursor, extent: [first, end]} = this.view;
    if (cursor === null || cursor === undefined || cursor < first || cursor > end) return [];
    return [svg('line', {class: 'cursor', x1: this.x(cursor), x2: this.x(cursor), y1: TOP, y2: this.place.height - BOTTOM})];
  }

  nearest(event) {
    const {extent: [first, end], series} = this.view;
    const box = this.canvas.getBoundingClientRect();
    const share = ((event.clientX - box.left) * (this.place.width / box.width) - LEFT) / (this.place.width - LEFT - RIGHT);
    const x = first + Math.min(Math.max(share, 0), 1) * (end - first);
    const near = series.filter(({xs}) => xs.length).map(({xs}) => {
      const before = indexAt(xs, x);
      const after = Math.min(before + 1, xs.length - 1);
      return Math.abs(xs[after] - x) < Math.abs(xs[before] - x) ? xs[after] : xs[before];
    });
    return near.reduce((best, one) => (best === null || Math.abs(one - x) < Math.abs(best - x) ? one : best), null);
  }

  hovered(event) {
    if (!this.place) return;
    const x = this.nearest(event);
    if (x === null) return;
    for (const end of ['x1', 'x2']) this.pointer.setAttribute(end, this.x(x));
    this.pointer.setAttribute('visibility', 'visible');
    const values = this.view.series.filter(({name, xs}) => name && xs.length).map(({name, xs, ys}) => {
      const at = indexAt(xs, x);
      return `${name}: ${xs[at] === x ? exact(ys[at]) : 'not measured'}`;
    });
    showTooltip(event.clientX, event.clientY, [this.view.describe?.(x) ?? `step ${x.toLocaleString('en')}`, ...values]);
  }

  left() {
    this.pointer?.setAttribute('visibility', 'hidden');
    hideTooltip();
  }
}
