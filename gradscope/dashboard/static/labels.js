// Which rows of a heat map have room for their names.

// `rows` share bands, band i holding rows edges[i] up to edges[i + 1]; a name takes `every` bands. Where there is not
// room for all, the chosen and the sick rows come first, then an even choice of the others.
export function labelled(rows, edges, every, isChosen) {
  if (every <= 1) return rows;
  const bands = edges.length - 1;
  const taken = new Array(bands).fill(false);
  const kept = [];
  const put = (band, row) => {
    const [from, to] = [Math.max(0, band - every + 1), Math.min(bands, band + every)];
    for (let i = from; i < to; i++) if (taken[i]) return;
    taken[band] = true;
    kept.push(row);
  };
  const eachRow = (wanted) => {
    for (let band = 0; band < bands; band++) {
      for (let i = edges[band]; i < edges[band + 1]; i++) if (wanted(rows[i])) put(band, rows[i]);
    }
  };
  eachRow(isChosen);
  eachRow((row) => row.severity === 'critical');
  eachRow((row) => row.severity === 'warning');
  for (let band = 0; band < bands; band++) put(band, rows[edges[band]]);
  return kept;
}
