// Where a report file begins: the same page, over data that stand in the file itself.

import {App} from './app.js';
import {matrixOf} from './source.js';

export class Embedded {
  constructor(content) {
    this.isLive = false;
    this.content = content;
    this.unpacked = new Map();
  }

  async runs() {
    return this.content.runs;
  }

  async summary(run) {
    return this.content.summaries[run];
  }

  async matrix(run, metric) {
    const key = JSON.stringify([run, metric]);
    if (!this.unpacked.has(key)) this.unpacked.set(key, await this.unpack(run, metric));
    return this.unpacked.get(key);
  }

  async layer(run, layer) {
    const {layers, steps} = this.content.records[run];
    const i = layers.findIndex((one) => one.name === layer);
    const metrics = {};
    for (const name of Object.keys(this.content.records[run].metrics)) {
      const {data} = await this.matrix(run, name);
      const values = steps.map((_, s) => data[s * layers.length + i]);
      if (!values.every(Number.isNaN)) metrics[name] = values;
    }
    return {layer: layers[i], steps, metrics};
  }

  async unpack(run, metric) {
    const {layers, steps, metrics} = this.content.records[run];
    const description = this.content.runs.find((one) => one.name === run).metrics.find((one) => one.name === metric);
    const data = new Float32Array(steps.length * layers.length).fill(NaN);
    if (metrics[metric]) await fill(data, metrics[metric], steps.length, layers.length);
    return matrixOf({run, metric: description ?? {name: metric, title: metric, unit: 'value', healthy: {}}, steps, layers,
      data, complete: true});
  }
}

// `rows` are the layers that have the metric. Their numbers lie layer after layer as four planes of bytes, which is
// what packs well, packed by gzip and written in base 64.
async function fill(data, {rows, packed}, records, layers) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = rows.length * records;
  const numbers = new Uint8Array(4 * count);
  for (let i = 0; i < count; i++) for (let k = 0; k < 4; k++) numbers[4 * i + k] = planes[k * count + i];
  const values = new Float32Array(numbers.buffer);
  rows.forEach((layer, row) => {
    for (let s = 0; s < records; s++) data[s * layers + layer] = values[row * records + s];
  });
}

export async function render() {
  const content = JSON.parse(document.getElementById('gradscope-data').textContent);
  await new App(document.body, new Embedded(content)).start();
}
