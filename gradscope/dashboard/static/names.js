// Names of layers and runs: made harmless to look at, shortened, searched, and folded into modules.

// Control characters, marks that turn the direction of a line or have no width, ends of lines, halves of characters.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

// What would steer the line becomes a sign that can be seen.
export function visible(name) {
  return name.replace(UNSEEN, '\ufffd');
}

// Shortens a name until `measure` finds it at most `width` wide. Parts in the middle go first, then the first one;
// numbers and the last stay, since they tell siblings apart. Where that is not enough, the middle of the letters goes.
export function shortened(name, width, measure) {
  const text = visible(name);
  const fitting = [text, ...elisions(text)].find((one) => measure(one) <= width);
  return fitting ?? cutToFit(Array.from(text), width, measure);
}

function elisions(name) {
  const parts = name.split('.');
  if (parts.length < 2) return [];
  const middle = parts.map((_, i) => i).slice(1, -1);
  return [...middle, 0].filter((i) => !/^\d+$/.test(parts[i])).map((i) => {
    parts[i] = '…';
    return parts.filter((part, k) => k === 0 || part !== '…' || parts[k - 1] !== '…').join('.');
  });
}

function cutToFit(letters, width, measure) {
  let few = 0, many = letters.length;
  while (many - few > 1) {
    const kept = (few + many) >> 1;
    if (measure(cut(letters, kept)) <= width) few = kept;
    else many = kept;
  }
  return cut(letters, few);
}

function cut(letters, kept) {
  const head = Math.floor(kept / 3);
  return letters.slice(0, head).join('') + '…' + letters.slice(letters.length - (kept - head)).join('');
}

export function clipped(name, letters) {
  return shortened(name, letters, (text) => Array.from(text).length);
}

// Says which names a search finds: patterns between spaces, `*` and `?` as in a shell, a leading `!` excludes; one
// without a wildcard is found anywhere in a name. An empty search finds all.
export function finder(search) {
  const patterns = search.trim().split(/[\s,]+/).filter((pattern) => pattern && pattern !== '!');
  const excluded = patterns.filter((pattern) => pattern.startsWith('!')).map((pattern) => test(pattern.slice(1)));
  const included = patterns.filter((pattern) => !pattern.startsWith('!')).map(test);
  return (name) => (!included.length || included.some((finds) => finds(name))) && !excluded.some((finds) => finds(name));
}

function test(pattern) {
  return /[*?]/.test(pattern) ? glob(pattern) : (name) => name.toLowerCase().includes(pattern.toLowerCase());
}

// A `*` takes as few letters as it can, and one more whenever what follows it does not fit. A regular expression would
// try all ways in which several of them can share a long name, and halt the page.
function glob(pattern) {
  const wanted = Array.from(pattern.toLowerCase());
  return (name) => {
    const letters = Array.from(name.toLowerCase());
    let [i, k, star, taken] = [0, 0, -1, 0];
    while (i < letters.length) {
      if (wanted[k] === '*') [star, taken] = [k++, i];
      else if (wanted[k] === '?' || wanted[k] === letters[i]) [i, k] = [i + 1, k + 1];
      else if (star >= 0) [i, k] = [++taken, star + 1];
      else return false;
    }
    return wanted.slice(k).every((one) => one === '*');
  };
}

// The modules that a name stands in, the outermost first: `a.b.c` stands in `a` and in `a.b`.
export function modulesOf(name) {
  const parts = name.split('.');
  return parts.slice(0, -1).map((_, i) => parts.slice(0, i + 1).join('.'));
}

export function deepest(layers) {
  return layers.reduce((depth, layer) => Math.max(depth, layer.name.split('.').length - 1), 0);
}

// Rows of a table of `layers`: those at `indices`, each alone or, where a module is folded, all of its layers in one.
// Folded are the modules of `fold.level` parts, and those in `fold.except` are the other way round.
export function rowsOf(layers, indices, fold) {
  const rows = new Map();
  const sizes = new Map();
  for (const i of indices) {
    for (const module of modulesOf(layers[i].name)) sizes.set(module, (sizes.get(module) ?? 0) + 1);
  }
  for (const i of indices) {
    const name = layers[i].name;
    const module = modulesOf(name).find((one) => sizes.get(one) > 1 && isFolded(one, fold));
    const key = module === undefined ? `layer ${name}` : `module ${module}`;
    if (!rows.has(key)) rows.set(key, {name: module ?? name, module: module ?? null, layers: []});
    rows.get(key).layers.push(i);
  }
  return [...rows.values()];
}

export function isFolded(module, fold) {
  return (module.split('.').length === fold.level) !== fold.except.includes(module);
}

// The innermost module of more than one of `layers` that `name` stands in and that could be folded; null if none.
export function foldable(name, layers, fold) {
  const names = [...new Set(layers.map((layer) => layer.name))]; // of several runs, which share layers
  const inside = (module) => names.filter((one) => one.startsWith(`${module}.`)).length;
  return modulesOf(name).reverse().find((module) => !isFolded(module, fold) && inside(module) > 1) ?? null;
}

export function toggled(fold, module) {
  const others = fold.except.filter((one) => one !== module);
  return {level: fold.level, except: others.length < fold.except.length ? others : [...others, module]};
}
