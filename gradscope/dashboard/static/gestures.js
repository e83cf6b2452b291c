// Mouse, touch and keyboard on a heat map.

import {hideTooltip, showTooltip} from './dom.js';
import {clipped} from './names.js';
import {indexAt} from './numbers.js';

export const KEYS = 'Arrow keys move, Enter opens the layer, Shift with left or right folds and unfolds its module, '
  + 'plus and minus zoom, 0 shows the whole run, Escape closes.';
const LEAST_DRAG = 5;

export function listen(map, actions) {
  const frame = map.frame;
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  Object.assign(frame, {
    onpointermove: (event) => (map.dragged ? drag(map, at(event)[0]) : hover(map, event, ...at(event))),
    onpointerdown: (event) => press(map, event, ...at(event)),
    onpointerup: () => release(map, actions),
    onpointercancel: () => { map.dragged = null; map.drawAbove(); },
    onpointerleave: hideTooltip,
    ondblclick: () => actions.zoom(null),
    onkeydown: (event) => type(map, actions, event),
    onblur: () => { map.cursor = null; hideTooltip(); map.drawAbove(); },
  });
  frame.addEventListener('wheel', (event) => {
    if (map.isEmpty || !(event.ctrlKey || event.metaKey)) return; // a plain wheel scrolls the page
    event.preventDefault();
    zoomBy(map, actions, event.deltaY < 0 ? 0.8 : 1.25, map.stepAt(at(event)[0]));
  }, {passive: false});
}

function hover(map, event, x, y) {
  const found = map.under(x, y);
  if (!found) return hideTooltip();
  const row = map.view.rows[found.row];
  const ofRow = [clipped(row.module ?? row.name, 300),
    row.module === null ? 'Click to open this layer' : `${row.layers.length} layers. Click to unfold`];
  showTooltip(event.clientX, event.clientY,
    found.record === null ? ofRow : map.describe(map.cellAt(found.row, found.record)));
}

function press(map, event, x, y) {
  const found = map.under(x, y);
  if (!found || event.button !== 0) return;
  map.frame.setPointerCapture(event.pointerId);
  map.dragged = {from: Math.max(x, map.place.left), to: x, moved: false, found};
}

function drag(map, x) {
  const {left, right} = map.place;
  map.dragged.to = Math.min(Math.max(x, left), right);
  map.dragged.moved ||= Math.abs(map.dragged.to - map.dragged.from) > LEAST_DRAG;
  hideTooltip();
  map.drawAbove();
}

function release(map, actions) {
  const dragged = map.dragged;
  map.dragged = null;
  if (!dragged) return;
  if (!dragged.moved) return pick(map, actions, dragged.found.row, dragged.found.record);
  const [low, high] = [Math.min(dragged.from, dragged.to), Math.max(dragged.from, dragged.to)];
  map.drawAbove();
  actions.zoom([Math.floor(map.stepAt(low)), Math.max(Math.ceil(map.stepAt(high)), Math.floor(map.stepAt(low)) + 1)]);
}

function pick(map, actions, row, record) {
  const {module} = map.view.rows[row];
  if (module !== null && record === null) return actions.unfold(module);
  const {layer, step} = map.cellAt(row, record ?? map.view.matrix.steps.length - 1);
  actions.choose({layer: layer.name, step: record === null ? map.view.step : step});
}

function zoomBy(map, actions, factor, around) {
  const [first, end] = map.view.extent;
  const [low, high] = map.view.whole;
  const range = [Math.max(low, Math.round(around - (around - first) * factor)),
    Math.min(high, Math.round(around + (end - around) * factor))];
  if (range[0] <= low && range[1] >= high) actions.zoom(null);
  else if (range[1] - range[0] >= 2) actions.zoom(range);
}

function type(map, actions, event) {
  if (map.isEmpty || !map.place || event.altKey || event.ctrlKey || event.metaKey) return;
  const {row, record} = map.cursor ?? startOfCursor(map);
  const found = map.view.rows[row];
  const step = map.view.matrix.steps[record];
  const shifted = {
    ArrowLeft: () => actions.fold(found.module ?? found.name),
    ArrowRight: () => found.module !== null && actions.unfold(found.module),
  };
  const plain = {
    Enter: () => (found.module === null ? pick(map, actions, row, record) : actions.unfold(found.module)),
    Escape: () => actions.close(), 0: () => actions.zoom(null),
    '+': () => zoomBy(map, actions, 0.5, step), '-': () => zoomBy(map, actions, 2, step),
  };
  const act = (event.shiftKey && shifted[event.key]) || plain[event.key];
  if (act) act();
  else if (!move(map, event.key, row, record)) return;
  event.preventDefault();
}

function move(map, key, row, record) {
  const {rows, matrix} = map.view;
  const last = matrix.steps.length - 1;
  const line = Math.max(1, Math.ceil(rows.length / map.place.bands));
  const target = {
    ArrowUp: [row - line, record], ArrowDown: [row + line, record], ArrowLeft: [row, record - 1],
    ArrowRight: [row, record + 1], Home: [row, 0], End: [row, last], PageUp: [row - 10 * line, record],
    PageDown: [row + 10 * line, record],
  }[key];
  if (!target) return false;
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  map.cursor = {row: within(target[0], rows.length - 1), record: within(target[1], last)};
  map.drawAbove();
  tellCursor(map);
  return true;
}

function tellCursor(map) {
  const {row, record} = map.cursor;
  const lines = map.describe(map.cellAt(row, record));
  map.readout.textContent = lines.join('. ');
  const box = map.frame.getBoundingClientRect();
  showTooltip(box.left + map.xOf(map.view.matrix.steps[record]), box.top + map.middleOf(row), lines);
}

// Where the chosen cell is; else the first row, at the last record.
function startOfCursor(map) {
  const {rows, matrix, layer, step} = map.view;
  const row = rows.findIndex((one) => one.layers.some((i) => matrix.layers[i].name === layer));
  return {row: Math.max(0, row), record: step === null ? matrix.steps.length - 1 : indexAt(matrix.steps, step)};
}
