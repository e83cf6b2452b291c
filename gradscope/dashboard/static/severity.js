// How bad it is, told by a sign and a word, never by colour alone.

export const SIGNS = {critical: '✖', warning: '▲', info: '●', sound: '✔', unjudged: '○'};

const ORDER = ['critical', 'warning'];

// The severity of a layer among those that findings name; null for all others, one called `constructor` among them.
export function severityOf(layer, severities) {
  return Object.hasOwn(severities, layer) ? severities[layer] : null;
}

export function worst(severities) {
  return ORDER.find((severity) => severities.includes(severity)) ?? null;
}
