// What is shown, as a file: a picture of the heat maps, or the numbers behind them.

import {element} from './dom.js';
import {BAR_SIZE, drawBar, specials} from './legend.js';
import {css} from './colours.js';
import {clipped} from './names.js';

const [PAD, LINE] = [16, 22];

// The heat maps as they are drawn; a run without one, of which only a sentence is shown, is left out.
export function savePicture(maps, dark) {
  const style = getComputedStyle(maps.node);
  const runs = maps.prepared.map(({run}) => run).filter((run) => !maps.mapOf(run).isEmpty);
  const canvases = runs.map((run) => maps.mapOf(run).base);
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(BAR_SIZE.width + 360, ...canvases.map((one) => one.width / ratio)) + 2 * PAD;
  const height = 2 * PAD + 2 * LINE + BAR_SIZE.height + canvases.reduce((sum, one) => sum + one.height / ratio + LINE, 0);
  const picture = element('canvas', {width: width * ratio, height: height * ratio});
  const pen = picture.getContext('2d');
  pen.scale(ratio, ratio);
  pen.fillStyle = style.getPropertyValue('--paper');
  pen.fillRect(0, 0, width, height);
  drawHead(pen, maps, dark, style);
  let y = PAD + LINE + BAR_SIZE.height;
  runs.forEach((run, i) => {
    text(pen, style, clipped(run.name, 90), PAD, y + 14);
    pen.drawImage(canvases[i], PAD, y + LINE, canvases[i].width / ratio, canvases[i].height / ratio);
    y += LINE + canvases[i].height / ratio;
  });
  picture.toBlob((blob) => download(blob, `gradscope_${maps.scale.metric.name}.png`));
}

function drawHead(pen, maps, dark, style) {
  text(pen, style, maps.scale.metric.title, PAD, PAD + 12, 'bold 14px');
  pen.save();
  pen.translate(PAD, PAD + LINE);
  drawBar(pen, maps.scale, style.getPropertyValue('--ink'));
  pen.restore();
  specials(maps.scale, dark).forEach(({colour, text: words}, i) => {
    const x = PAD + BAR_SIZE.width + 12 + i * 118;
    pen.fillStyle = css(colour);
    pen.fillRect(x, PAD + LINE + 3, 12, 12);
    text(pen, style, words, x + 17, PAD + LINE + 13);
  });
}

function text(pen, style, words, x, y, font = '12px') {
  pen.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  Object.assign(pen, {fillStyle: style.getPropertyValue('--ink'), textAlign: 'left', textBaseline: 'alphabetic'});
  pen.fillText(words, x, y);
}

// One line for each run and layer, one column for each step.
export function saveNumbers(runs, metric) {
  const steps = [...new Set(runs.flatMap((run) => [...run.matrix.steps]))].sort((a, b) => a - b);
  const lines = [['run', 'layer', 'type', 'kind', ...steps].map(quoted).join(',')];
  for (const {name, matrix} of runs) {
    const at = new Map(matrix.steps.map((step, record) => [step, record]));
    for (const i of matrix.measured) {
      const {name: layer, type, kind} = matrix.layers[i];
      const values = steps.map((step) => written(matrix.data[at.get(step) * matrix.layers.length + i]));
      lines.push([...[name, layer, type, kind].map(quoted), ...values].join(','));
    }
  }
  download(new Blob([`${lines.join('\r\n')}\r\n`], {type: 'text/csv'}), `gradscope_${metric.name}.csv`);
}

function written(value) {
  if (value === undefined || Number.isNaN(value)) return '';
  return Number.isFinite(value) ? String(Number(value.toPrecision(7))) : 'inf';
}

// A spreadsheet would run a name that begins like a formula.
function quoted(value) {
  const safe = /^[=+\-@＝＋－＠\t\r\n]/.test(String(value)) && typeof value === 'string' ? `'${value}` : String(value);
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function download(blob, name) {
  const address = URL.createObjectURL(blob);
  element('a', {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
