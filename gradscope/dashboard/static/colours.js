// Colours that stay apart for the colour-blind: viridis for amounts, blue and orange for two sides of a range.

// Samples of viridis (Smith and van der Walt 2015), perceptually uniform.
const VIRIDIS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140], [34, 168, 132],
  [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37],
];
// Each side of a range, from its edge outwards.
const BELOW = [[158, 202, 225], [66, 146, 198], [8, 69, 148]];
const ABOVE = [[253, 187, 108], [232, 112, 20], [140, 45, 4]];
export const INSIDE = [203, 228, 206];

export const STEPS = 256;
export const NON_FINITE = [230, 30, 60];
export const EXACT_ZERO = [0, 0, 0];
export const notMeasured = (dark) => (dark ? [78, 78, 84] : [222, 222, 226]);

export const SEQUENTIAL = table((position) => between(VIRIDIS, position));

// What lies inside the range, |distance| ≤ 1 of `reach`, has one quiet colour; its edges are where the colour jumps.
export function diverging(reach) {
  return table((position) => {
    const distance = (2 * position - 1) * reach;
    if (Math.abs(distance) <= 1) return INSIDE;
    return between(distance < 0 ? BELOW : ABOVE, (Math.abs(distance) - 1) / (reach - 1));
  });
}

export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}

// As one number, in the order in which a canvas holds its bytes.
export function packed([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function table(colour) {
  return Array.from({length: STEPS}, (_, i) => colour(i / (STEPS - 1)));
}

function between(colours, position) {
  const at = Math.min(Math.max(position, 0), 1) * (colours.length - 1);
  const i = Math.min(Math.floor(at), colours.length - 2);
  return colours[i].map((channel, k) => Math.round(channel + (colours[i + 1][k] - channel) * (at - i)));
}
