// How bad it is, told by a sign and a word, never by colour alone.

export const SIGNS = {critical: '✖', warning: '▲', info: '●', sound: '✔', unjudged: '○'};

const ORDER = ['critical', 'warning'];

export function worst(severities) {
  return ORDER.find((severity) => severities.includes(severity)) ?? null;
}
