"use strict";
// The numbers of the captions and the maps made of them; captioner/figures/page.py writes them, captioner/figures/page.js shows them.
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const N = data.places;
const [X0, Y0, X1, Y1] = data.seen;

// All words of all captions that have attention, those of the best caption first; a number called `word` counts in this list.
const words = data.captions.flatMap(({ tokens, weights, peaks, tops }, rank) => {
  if (weights === null) return [];
  const view = new DataView(bytes(weights).buffer);
  return tokens.map((token, t) => ({
    token,
    rank,
    peak: peaks[t],
    top: tops[t],
    weights: Float64Array.from({ length: N }, (_, n) => (view.getUint16(2 * (t * N + n), true) / 65535) * peaks[t]),
  }));
});

// How much each cell counts at the points `at` (0..1) of one axis: see captioner/figures/heat.py, which does the same.
function spread(at, cells, low, high) {
  return at.map((point) => {
    const u = ((point - low) / (high - low)) * cells;
    if (u < 0 || u > cells) return null;
    const own = Math.min(cells - 1, Math.floor(u));
    if (data.smoothing < 0.05) return Float64Array.from({ length: cells }, (_, i) => (i === own ? 1 : 0));
    const score = (i) => -0.5 * ((u - i - 0.5) / data.smoothing) ** 2;
    const row = Float64Array.from({ length: cells }, (_, i) => Math.exp(score(i) - score(own)));
    const sum = row.reduce((a, b) => a + b);
    return row.map((value) => value / sum);
  });
}

// The map of a word at the lattice of points ys x xs, row by row.
function heat(word, xs, ys) {
  const out = new Float64Array(xs.length * ys.length), w = words[word].weights;
  if (data.grid) {
    const [rows, columns] = data.grid;
    const across = spread(xs, columns, X0, X1);
    spread(ys, rows, Y0, Y1).forEach((down, y) => {
      if (!down) return;
      const line = new Float64Array(columns);
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) line[c] += down[r] * w[r * columns + c];
      across.forEach((row, x) => {
        if (!row) return;
        let sum = 0; // a plain loop, since this is where the time goes
        for (let c = 0; c < columns; c++) sum += row[c] * line[c];
        out[y * xs.length + x] = sum;
      });
    });
  } else {
    data.boxes.forEach(([x0, y0, x1, y1], n) => {
      if (w[n] === 0) return;
      ys.forEach((v, y) => {
        if (v >= y0 && v <= y1) xs.forEach((u, x) => { if (u >= x0 && u <= x1) out[y * xs.length + x] += w[n]; });
      });
    });
  }
  return out;
}

// The weight of a word on the place, or the sum of those on the regions, that hold a point; as Caption.words_at gives it.
function weightAt(word, x, y) {
  const w = words[word].weights;
  if (data.boxes) return w.reduce((sum, value, n) => sum + (inside(data.boxes[n], x, y) ? value : 0), 0);
  const cell = cellAt(x, y);
  return cell ? w[cell[0] * data.grid[1] + cell[1]] : 0;
}
function inside([x0, y0, x1, y1], x, y) { return x >= x0 && x <= x1 && y >= y0 && y <= y1; }
function cellAt(x, y) {
  const u = (x - X0) / (X1 - X0), v = (y - Y0) / (Y1 - Y0);
  if (!data.grid || u < 0 || u > 1 || v < 0 || v > 1) return null;
  return [Math.min(data.grid[0] - 1, Math.floor(v * data.grid[0])), Math.min(data.grid[1] - 1, Math.floor(u * data.grid[1]))];
}

// A word's map as numbers of colours, 0..255, one a pixel of a canvas. They are kept: the strength changes colours alone.
const kept = new Map();
function levels(word, width, height) {
  if (!kept.has(word)) {
    const middles = (count) => Array.from({ length: count }, (_, i) => (i + 0.5) / count);
    const top = words[word].top;
    kept.set(word, Uint8Array.from(heat(word, middles(width), middles(height)), (value) => Math.round(255 * Math.min(1, value / top))));
  }
  return kept.get(word);
}

// The 256 colours as the four bytes of a pixel, `strength` times as opaque as the style has them, and never more than opaque.
function palette(strength) {
  const colours = new Uint8ClampedArray(bytes(data.colours));
  for (let i = 3; i < colours.length; i += 4) colours[i] *= strength;
  return new Uint32Array(colours.buffer);
}

// Draw numbers of colours on the whole of a canvas.
function paint(canvas, numbers, colours) {
  const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer);
  numbers.forEach((number, i) => { pixels[i] = colours[number]; });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
