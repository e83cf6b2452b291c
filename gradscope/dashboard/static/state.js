// What the user is looking at, and the link that brings it back.

export const INITIAL = {
  runs: [],
  metric: 'grad_norm',
  layer: null,
  step: null,
  zoom: null,
  fold: {level: 0, except: []},
  search: '',
  byContract: true,
  finding: null,
};

// The layer that is the model itself has no name, and no other can have this one.
const ITSELF = '.';

export class State {
  constructor(changed) {
    this.values = {...INITIAL};
    this.changed = changed;
  }

  set(values) {
    const differs = Object.entries(values).some(([key, value]) => !Object.is(this.values[key], value));
    this.values = {...this.values, ...values};
    if (differs) this.changed(this.values);
  }
}

export function toLink(values) {
  return {
    runs: values.runs.map(encodedName).join(','),
    metric: values.metric === INITIAL.metric ? '' : whole(values.metric),
    layer: values.layer === '' ? ITSELF : whole(values.layer ?? ''),
    step: values.step === null ? '' : String(values.step),
    zoom: values.zoom ? values.zoom.join('-') : '',
    fold: foldToText(values.fold),
    search: whole(values.search),
    colours: values.byContract ? '' : 'values',
    finding: whole(values.finding ?? ''),
  };
}

// Reads what `toLink` wrote; whatever cannot be read, in a link that was mangled, keeps its initial value.
export function fromLink(link) {
  const values = {};
  const zoom = /^(\d{1,15})-(\d{1,15})$/.exec(link.zoom ?? '');
  if (link.runs) values.runs = link.runs.split(',').map(decodedName).slice(0, 100);
  if (link.metric) values.metric = link.metric;
  if (link.layer) values.layer = link.layer === ITSELF ? '' : link.layer;
  if (/^\d{1,15}$/.test(link.step ?? '')) values.step = Number(link.step);
  if (zoom && Number(zoom[1]) < Number(zoom[2])) values.zoom = [Number(zoom[1]), Number(zoom[2])];
  if (link.fold) values.fold = foldFromText(link.fold);
  if (link.search) values.search = link.search.slice(0, 1000);
  if (link.colours === 'values') values.byContract = false;
  if (link.finding) values.finding = link.finding;
  return values;
}

function foldToText({level, except}) {
  return level || except.length ? [level, ...except.map(encodedName)].join(',') : '';
}

function foldFromText(text) {
  const [level, ...except] = text.split(',');
  return {level: /^\d{1,2}$/.test(level) ? Number(level) : 0, except: except.map(decodedName)};
}

function decodedName(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

function encodedName(name) {
  return encodeURIComponent(whole(name));
}

// An address has no place for half a character, which a folder's name may hold where it is no UTF-8.
function whole(text) {
  return text.replace(/\p{Cs}/gu, '\ufffd');
}
