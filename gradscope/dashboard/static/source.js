// Where the page's data come from: the routes of the plug-in. A report file has its own (embedded.js), same methods.

export class Server {
  constructor() {
    this.isLive = true;
  }

  async runs() {
    return (await json('./runs')).runs;
  }

  async summary(run) {
    return json('./summary', {run});
  }

  async layer(run, layer) {
    return json('./layer', {run, layer});
  }

  // With `records` about so many, quickly; with the token of an earlier answer only what came after it, if it can.
  async matrix(run, metric, {records, after}) {
    const response = await get('./matrix', {run, metric, records, after});
    const buffer = await response.arrayBuffer();
    const length = new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    return matrixOf({...header, data: new Float32Array(buffer, 4 + length)});
  }
}

// Adds the indices of the layers that have the metric in any record, in model order.
export function matrixOf(matrix) {
  const {data, layers, steps} = matrix;
  const width = layers.length;
  const measured = [];
  for (let l = 0; l < width; l++) {
    for (let s = 0; s < steps.length; s++) {
      const value = data[s * width + l];
      if (value === value) {
        measured.push(l);
        break;
      }
    }
  }
  return {...matrix, measured};
}

// The records of `earlier` and, behind them, those of `later`, of the same layers.
export function joined(earlier, later) {
  const data = new Float32Array(earlier.data.length + later.data.length);
  data.set(earlier.data);
  data.set(later.data, earlier.data.length);
  return matrixOf({...later, data, steps: [...earlier.steps, ...later.steps], complete: earlier.complete});
}

async function json(path, parameters = {}) {
  return (await get(path, parameters)).json();
}

async function get(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null);
  let response;
  try {
    response = await fetch(given.length ? `${path}?${new URLSearchParams(given)}` : path);
  } catch {
    throw new Error('TensorBoard does not answer; this page goes on trying.');
  }
  if (response.ok) return response;
  throw new Error(await explanation(response));
}

async function explanation(response) {
  const answer = await response.json().catch(() => null);
  return answer?.error ?? `TensorBoard answered with status ${response.status}; its own output may say why.`;
}
