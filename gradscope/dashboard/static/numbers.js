// How numbers are written: four significant digits, as the terminal does.

export function exact(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return 'not measured';
  if (!Number.isFinite(value)) return value > 0 ? 'NaN or infinite' : '−infinite';
  if (value === 0) return '0';
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e5 ? tidy(value.toExponential(3)) : String(Number(value.toPrecision(4)));
  return text.replace('-', '−').replace('e−', 'e-');
}

// A cell as people read it: flags by their names, fractions in percent.
export function written(metric, value) {
  if (!Number.isFinite(value)) return exact(value);
  if (metric.unit === 'fraction') return `${exact(100 * value)} %`;
  if (metric.unit !== 'flags') return exact(value);
  const places = ['gradient', 'weight', 'output'].filter((_, bit) => value & (1 << bit));
  return places.length ? `in ${places.join(', ')}` : 'none';
}

export function brief(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e5 ? tidy(value.toExponential(1)) : String(Number(value.toPrecision(3)));
  return text.replace(/^-/, '−');
}

function tidy(exponential) {
  return exponential.replace(/\.?0+e/, 'e').replace('e+', 'e');
}

export function power(decade) {
  const digits = {'-': '⁻', 0: '⁰', 1: '¹', 2: '²', 3: '³', 4: '⁴', 5: '⁵', 6: '⁶', 7: '⁷', 8: '⁸', 9: '⁹'};
  return `10${Array.from(String(decade), (digit) => digits[digit]).join('')}`;
}

export function counted(number, noun) {
  return `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`;
}

export function steps(first, last) {
  return first === last ? `step ${first.toLocaleString('en')}`
    : `steps ${first.toLocaleString('en')} to ${last.toLocaleString('en')}`;
}

// JSON has no infinities: the server writes them as words.
export function number(value) {
  return {inf: Infinity, '-inf': -Infinity, nan: NaN}[value] ?? (value === null ? NaN : value);
}

// The loss of each record: infinite where it was measured but no number.
export function losses({globals: {loss, nonfinite_loss: lost}}) {
  return (loss ?? []).map((value, i) => (lost?.[i] === 1 ? Infinity : number(value)));
}

// Says whether curves are so far apart, or fall so far, that only a logarithmic axis shows them all.
export function isWide(series) {
  const values = series.flatMap(({ys}) => ys).filter(Number.isFinite);
  return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 100 * Math.min(...values);
}

// The same, closer where there would be fewer than two: one number tells no scale.
export function someTicks(low, high, count, whole = false) {
  const found = [1, 2, 4, 8].map((times) => ticks(low, high, times * count, whole));
  return found.find((values) => values.length > 1) ?? found[0];
}

// Round numbers from `low` to `high`, about `count` of them.
export function ticks(low, high, count, whole = false) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const decade = 10 ** Math.floor(Math.log10(rough));
  let distance = [1, 2, 5, 10].map((factor) => factor * decade).find((one) => one >= rough * 0.999);
  if (whole) distance = Math.max(1, Math.round(distance));
  const first = Math.ceil(low / distance - 1e-9);
  const number = Math.floor(high / distance + 1e-9) - first + 1;
  return Array.from({length: Math.max(0, number)}, (_, i) => Number(((first + i) * distance).toPrecision(12)));
}

// The index of the last of the ascending `values` that is at most `value`; 0 where none is.
export function indexAt(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}
