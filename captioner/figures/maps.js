"use strict";
// Decodes the data written by captioner/figures/explorer.py and computes attention maps for captioner/figures/explorer.js.
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const inside = ([x0, y0, x1, y1], x, y) => x >= x0 && x <= x1 && y >= y0 && y <= y1;

// The coefficient of each cell at the points `at` (0..1) of one axis, as in captioner/figures/heat.py.
function spread(at, cells, low, high, smoothing) {
  return at.map((point) => {
    const u = ((point - low) / (high - low)) * cells;
    if (u < 0 || u > cells) return null;
    const own = Math.min(cells - 1, Math.floor(u));
    if (smoothing < 0.05) return Float64Array.from({ length: cells }, (_, i) => (i === own ? 1 : 0));
    const score = (i) => -0.5 * ((u - i - 0.5) / smoothing) ** 2;
    const row = Float64Array.from({ length: cells }, (_, i) => Math.exp(score(i) - score(own)));
    const sum = row.reduce((a, b) => a + b);
    return row.map((value) => value / sum);
  });
}

// The attention maps of the captions of one image.
function mapsOf(data) {
  // The words of all captions with attention, those of the best caption first; `word` is an index into this list.
  // Its `view` describes its regions or cells: their number `places`, `seen`, and `grid` or `boxes` with `labels`.
  const words = data.captions.flatMap(({ tokens, weights, peaks, tops, view }, rank) => {
    if (weights === null) return [];
    const levels = new DataView(bytes(weights).buffer), places = data.views[view].places;
    const weight = (t, n) => (levels.getUint16(2 * (t * places + n), true) / 65535) * peaks[t];
    return tokens.map((token, t) => ({
      token,
      rank,
      view: data.views[view],
      peak: peaks[t],
      top: tops[t],
      uniform: 1 / places,
      weights: Float64Array.from({ length: places }, (_, n) => weight(t, n)),
    }));
  });

  // The map of a word on the lattice of points ys x xs, row by row.
  function heat(word, xs, ys) {
    const out = new Float64Array(xs.length * ys.length), { weights: w, view } = words[word];
    if (view.grid) {
      const [rows, columns] = view.grid, [X0, Y0, X1, Y1] = view.seen;
      const across = spread(xs, columns, X0, X1, data.smoothing);
      spread(ys, rows, Y0, Y1, data.smoothing).forEach((down, y) => {
        if (!down) return;
        const line = new Float64Array(columns);
        for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) line[c] += down[r] * w[r * columns + c];
        across.forEach((row, x) => {
          if (!row) return;
          let sum = 0; // a plain loop, because most time is spent here
          for (let c = 0; c < columns; c++) sum += row[c] * line[c];
          out[y * xs.length + x] = sum;
        });
      });
    } else {
      view.boxes.forEach(([x0, y0, x1, y1], n) => {
        if (w[n] === 0) return;
        ys.forEach((v, y) => {
          if (v < y0 || v > y1) return;
          const row = y * xs.length;
          xs.forEach((u, x) => { if (u >= x0 && u <= x1) out[row + x] = Math.max(out[row + x], w[n]); });
        });
      });
    }
    return out;
  }

  // The weight of a word on the cell, or the sum of its weights on the regions, that contain a point, as in
  // Caption.words_at.
  function weightAt(word, x, y) {
    const { weights: w, view } = words[word];
    if (view.boxes) return w.reduce((sum, value, n) => sum + (inside(view.boxes[n], x, y) ? value : 0), 0);
    const cell = cellAt(view, x, y);
    return cell ? w[cell[0] * view.grid[1] + cell[1]] : 0;
  }
  function cellAt({ grid, seen: [X0, Y0, X1, Y1] }, x, y) {
    const u = (x - X0) / (X1 - X0), v = (y - Y0) / (Y1 - Y0);
    if (!grid || u < 0 || u > 1 || v < 0 || v > 1) return null;
    const [rows, columns] = grid;
    return [Math.min(rows - 1, Math.floor(v * rows)), Math.min(columns - 1, Math.floor(u * columns))];
  }

  // How strongly a weight is coloured, 0..1: 0 up to uniform attention, 1 is the last colour, as in captioner/figures/heat.py.
  function share(word, weight) {
    const { top, uniform } = words[word];
    return Math.min(1, Math.max(0, (weight - uniform) / Math.max(top - uniform, 1e-9)));
  }

  // A word's map as colour indices, 0..255, one per canvas pixel. They are cached; the strength affects only colours.
  const cache = new Map();
  function levels(word, width, height) {
    if (!cache.has(word)) {
      const centres = (count) => Array.from({ length: count }, (_, i) => (i + 0.5) / count);
      const level = (value) => Math.round(255 * share(word, value));
      cache.set(word, Uint8Array.from(heat(word, centres(width), centres(height)), level));
    }
    return cache.get(word);
  }

  // The 256 colours as four-byte pixels, with `strength` times the opacity of the style, at most opaque.
  function palette(strength) {
    const colours = new Uint8ClampedArray(bytes(data.colours));
    for (let i = 3; i < colours.length; i += 4) colours[i] *= strength;
    return new Uint32Array(colours.buffer);
  }

  return { words, heat, share, weightAt, cellAt, levels, palette };
}

// Fill a canvas with colour indices.
function paint(canvas, numbers, colours) {
  const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer);
  numbers.forEach((number, i) => { pixels[i] = colours[number]; });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
