// What the page shows of the captions that were found.

// Join words into a sentence, as captioner/text/vocabulary.py does.
function sentence(words, { spaces, ascii_spaces: plain, stops }) {
  const joined = words.join(" "), isAscii = /^[\0-\x7f]*$/.test(joined);
  const text = joined.replace(new RegExp(isAscii ? plain : spaces, "gu"), "").trim();
  if (!text) return "";
  const stop = stops.find(([ending]) => new RegExp(ending, "u").test(text));
  const [letter] = text;
  return letter.toUpperCase() + text.slice(letter.length) + stop[1];
}

// The data of an explorer; see captioner/figures/explorer.py.
function explorerOf({ grid, figure, text }, words, hypotheses, seen, size) {
  const [rows, columns] = grid, places = rows * columns;
  const points = (cells) => Array.from({ length: 4 * cells }, (_, i) => (i + 0.5) / (4 * cells));
  const down = spread(points(rows), rows, 0, 1, figure.smoothing);
  const across = spread(points(columns), columns, 0, 1, figure.smoothing);
  const captions = hypotheses.map((one) => {
    const tokens = one.words.map((word) => words[word]);
    const caption = { text: sentence(tokens, text), tokens, log_probability: one.logProbability };
    if (!one.attention) return { ...caption, view: null, weights: null, peaks: [], tops: [] };
    const peaks = one.attention.map((weights) => Math.max(...weights));
    const levels = new DataView(new ArrayBuffer(2 * places * tokens.length));
    one.attention.forEach((weights, t) => weights.forEach((weight, n) => {
      levels.setUint16(2 * (t * places + n), Math.round((65535 * weight) / (peaks[t] || 1)), true);
    }));
    const letters = Array.from(new Uint8Array(levels.buffer), (byte) => String.fromCharCode(byte)).join("");
    const tops = one.attention.map((weights) => Math.max(highest(weights, down, across), Math.min(1, 4 / places)));
    return { ...caption, view: 0, weights: btoa(letters), peaks, tops };
  });
  const views = captions.some(({ view }) => view === 0) ? [{ places, seen, grid, boxes: null, labels: null }] : [];
  return { ...figure, captions, views, size };
}

// The maximum of a map, sampled at the points of two axes.
function highest(weights, down, across) {
  const columns = across[0].length;
  return Math.max(...down.map((row) => {
    const sumOf = (c) => row.reduce((sum, share, r) => sum + share * weights[r * columns + c], 0);
    const line = Array.from({ length: columns }, (_, c) => sumOf(c));
    return Math.max(...across.map((shares) => shares.reduce((sum, share, c) => sum + share * line[c], 0)));
  }));
}
