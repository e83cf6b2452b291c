// The health of a run as one line: its layers in model order, the sick ones coloured and raised.

import {element, hideTooltip, showTooltip} from './dom.js';
import {clipped} from './names.js';
import {counted} from './numbers.js';
import {SIGNS, severityOf, worst} from './severity.js';

const [HEIGHT, LEAST_WIDTH] = [26, 2];

export class HealthStrip {
  constructor(choose) {
    this.canvas = element('canvas', {
      className: 'strip', role: 'img', onpointermove: (event) => this.hovered(event), onpointerleave: hideTooltip,
      onclick: (event) => this.layersAt(event).length && choose(this.sickest(this.layersAt(event)).name),
    });
    this.node = element('div', {className: 'strip-frame'}, this.canvas);
  }

  // A module that a finding names and that nothing is measured of comes behind the layers.
  update(layers, severities, isJudged = true) {
    const names = layers.map((layer) => layer.name);
    const others = Object.keys(severities).filter((name) => !names.includes(name));
    this.layers = [...names, ...others].map((name) => ({name, severity: severityOf(name, severities)}));
    this.isJudged = isJudged;
    const sick = this.layers.filter((layer) => layer.severity);
    this.canvas.setAttribute('aria-label', `${sick.length} of ${counted(this.layers.length, 'layer')} named by warnings` +
      (sick.length ? `: ${sick.slice(0, 20).map((layer) => clipped(layer.name, 60)).join(', ')}` : ''));
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth;
    if (!this.layers?.length || !width) return;
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, {width: Math.round(width * ratio), height: Math.round(HEIGHT * ratio)});
    const pen = this.canvas.getContext('2d');
    pen.scale(ratio, ratio);
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    Object.assign(pen, {textAlign: 'center', textBaseline: 'middle'});
    this.cells = Math.min(this.layers.length, Math.floor(width / LEAST_WIDTH));
    for (let i = 0; i < this.cells; i++) this.drawCell(pen, i, width / this.cells);
  }

  drawCell(pen, i, width) {
    const style = getComputedStyle(this.node);
    const severity = worst(this.within(i).map((layer) => layer.severity));
    const gap = width >= 5 ? 1 : 0;
    pen.fillStyle = style.getPropertyValue(severity ? `--${severity}-fill` : this.isJudged ? '--sound-fill' : '--line');
    pen.fillRect(i * width, severity ? 0 : 6, width - gap, HEIGHT - (severity ? 0 : 12));
    if (!severity || width < 14) return;
    pen.fillStyle = style.getPropertyValue(`--on-${severity}-fill`);
    pen.fillText(SIGNS[severity], (i + 0.5) * width - gap / 2, HEIGHT / 2 + 1);
  }

  within(cell) {
    const {layers, cells} = this;
    return layers.slice(Math.floor((cell * layers.length) / cells), Math.floor(((cell + 1) * layers.length) / cells));
  }

  layersAt(event) {
    if (!this.cells) return [];
    const box = this.canvas.getBoundingClientRect();
    const cell = Math.floor(((event.clientX - box.left) / box.width) * this.cells);
    return this.within(Math.min(Math.max(cell, 0), this.cells - 1));
  }

  sickest(layers) {
    const severity = worst(layers.map((layer) => layer.severity));
    return layers.find((layer) => layer.severity === severity) ?? layers[0];
  }

  hovered(event) {
    const layers = this.layersAt(event);
    if (!layers.length) return;
    const {name, severity} = this.sickest(layers);
    const others = layers.length > 1 ? `, one of ${layers.length} layers here` : '';
    showTooltip(event.clientX, event.clientY, [`${clipped(name, 300)}${others}`,
      severity ? `${SIGNS[severity]} ${severity}` : this.isJudged ? 'no warning' : 'not judged yet']);
  }
}
