// What the colours of the heat maps stand for.

import {EXACT_ZERO, INSIDE, NON_FINITE, css, notMeasured} from './colours.js';
import {element} from './dom.js';
import {marks} from './scale.js';

const [BAR, HEIGHT, WIDTH, MARGIN] = [14, 40, 260, 24];

export class Legend {
  constructor() {
    this.canvas = element('canvas', {className: 'colour-bar', role: 'img'});
    this.special = element('span', {className: 'special-colours'});
    this.node = element('div', {className: 'legend'}, this.canvas, this.special);
  }

  update(scale, dark) {
    this.canvas.setAttribute('aria-label', `Colours from ${marks(scale).map(({text}) => text).join(', ')}`);
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, {width: (WIDTH + 2 * MARGIN) * ratio, height: HEIGHT * ratio});
    Object.assign(this.canvas.style, {width: `${WIDTH + 2 * MARGIN}px`, height: `${HEIGHT}px`});
    const pen = this.canvas.getContext('2d');
    pen.scale(ratio, ratio);
    drawBar(pen, scale, getComputedStyle(this.node).getPropertyValue('--ink'));
    this.special.replaceChildren(...specials(scale, dark).flatMap(({colour, text}) => [
      element('span', {className: 'swatch special', style: `background:${css(colour)}`}), element('span', {}, text)]));
  }
}

export function specials(scale, dark) {
  return [
    ...(scale.byContract ? [{colour: INSIDE, text: 'inside'}] : []),
    {colour: NON_FINITE, text: 'NaN or infinite'},
    ...(scale.logarithmic || scale.range?.[0] > 0 ? [{colour: EXACT_ZERO, text: 'exactly zero'}] : []),
    {colour: notMeasured(dark), text: 'not measured'},
  ];
}

export function drawBar(pen, scale, ink) {
  scale.colours.forEach((colour, i) => {
    pen.fillStyle = css(colour);
    pen.fillRect(MARGIN + (i * WIDTH) / scale.colours.length, 2, WIDTH / scale.colours.length + 0.6, BAR);
  });
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  Object.assign(pen, {fillStyle: ink, textAlign: 'center', textBaseline: 'top'});
  const all = marks(scale);
  all.forEach(({at, text}, i) => {
    pen.fillRect(MARGIN + at * WIDTH - 0.5, BAR + 2, 1, 4);
    const ends = `${i === 0 && scale.cutLow ? '≤ ' : ''}${i === all.length - 1 && scale.cutHigh ? '≥ ' : ''}`;
    pen.fillText(ends + text, MARGIN + at * WIDTH, BAR + 8);
  });
}

export const BAR_SIZE = {width: WIDTH + 2 * MARGIN, height: HEIGHT};
