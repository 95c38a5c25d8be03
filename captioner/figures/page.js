"use strict";
// The numbers of one caption: T words, N places, and how to draw them; captioner/figures/page.py writes them.
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const find = (name) => document.getElementById(name);
const T = data.tokens.length, N = data.places;
const [X0, Y0, X1, Y1] = data.seen;

const weights = (() => {
  const view = new DataView(bytes(data.weights).buffer);
  return Array.from({ length: T }, (_, t) =>
    Float64Array.from({ length: N }, (_, n) => (view.getUint16(2 * (t * N + n), true) / 65535) * data.peaks[t]));
})();
const colours = bytes(data.colours);
const percent = (weight) => `${(100 * weight).toFixed(weight >= 0.0995 ? 0 : 1)} %`;

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
  const out = new Float64Array(xs.length * ys.length), w = weights[word];
  if (data.grid) {
    const [rows, columns] = data.grid;
    const across = spread(xs, columns, X0, X1);
    spread(ys, rows, Y0, Y1).forEach((down, y) => {
      if (!down) return;
      const line = new Float64Array(columns);
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) line[c] += down[r] * w[r * columns + c];
      across.forEach((row, x) => {
        if (row) out[y * xs.length + x] = row.reduce((sum, value, c) => sum + value * line[c], 0);
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
  if (data.boxes) return weights[word].reduce((sum, w, n) => sum + (inside(data.boxes[n], x, y) ? w : 0), 0);
  const cell = cellAt(x, y);
  return cell ? weights[word][cell[0] * data.grid[1] + cell[1]] : 0;
}
function inside([x0, y0, x1, y1], x, y) { return x >= x0 && x <= x1 && y >= y0 && y <= y1; }
function cellAt(x, y) {
  const u = (x - X0) / (X1 - X0), v = (y - Y0) / (Y1 - Y0);
  if (!data.grid || u < 0 || u > 1 || v < 0 || v > 1) return null;
  return [Math.min(data.grid[0] - 1, Math.floor(v * data.grid[0])), Math.min(data.grid[1] - 1, Math.floor(u * data.grid[1]))];
}

const stage = find("stage"), map = find("map"), marks = find("marks"), report = find("status"), play = find("play");
const [W, H] = data.size;
stage.style.setProperty("--shape", String(W / H));
const shrink = Math.min(1, 420 / Math.max(W, H)); // enough for so smooth a map
map.width = Math.max(1, Math.round(W * shrink));
map.height = Math.max(1, Math.round(H * shrink));
const middles = (count) => Array.from({ length: count }, (_, i) => (i + 0.5) / count);
const drawn = new Map();
function picture(word) {
  if (!drawn.has(word)) {
    const image = new ImageData(map.width, map.height);
    heat(word, middles(map.width), middles(map.height)).forEach((value, i) => {
      const step = 4 * Math.round(255 * Math.min(1, value / data.tops[word]));
      image.data.set(colours.subarray(step, step + 4), 4 * i);
    });
    drawn.set(word, image);
  }
  return drawn.get(word);
}

const words = data.tokens.map((token, word) => {
  const button = document.createElement("button"), number = document.createElement("small");
  button.type = "button";
  button.tabIndex = word ? -1 : 0;
  button.setAttribute("aria-pressed", "false");
  button.append(token, number);
  find("words").append(button);
  return { button, number };
});

// What the reader does: the word under the pointer, the one held, the point of the photo.
const now = { hover: null, held: null, point: null, playing: null };
function shown() {
  if (now.playing !== null) return now.playing;
  if (now.hover !== null) return now.hover;
  if (now.held !== null) return now.held;
  const focused = words.findIndex(({ button }) => button.matches(":focus-visible"));
  return focused < 0 || now.point ? null : focused;
}

function mark(box, kind, label) {
  const element = document.createElement("div");
  element.className = kind;
  const [x0, y0, x1, y1] = box.map((value) => Math.min(1, Math.max(0, value)));
  Object.assign(element.style, { left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
  if (label) {
    const text = document.createElement("b");
    text.textContent = label;
    element.append(text);
  }
  marks.append(element);
}

function render() {
  const word = shown(), point = now.point;
  stage.classList.toggle("on", word !== null);
  if (word !== null) map.getContext("2d").putImageData(picture(word), 0, 0);
  marks.replaceChildren();
  if (Math.max(X0, Y0, 1 - X1, 1 - Y1) > 0.005) mark(data.seen, "seen");
  if (word !== null && data.boxes) {
    const best = data.peaks[word];
    const order = [...weights[word].keys()].sort((a, b) => weights[word][b] - weights[word][a]).slice(0, 4);
    order.filter((n) => weights[word][n] > 0 && 3 * weights[word][n] >= best).forEach((n, rank) => mark(data.boxes[n], "region", rank ? "" : percent(best)));
  }
  if (point) {
    const cell = cellAt(...point);
    const [wide, high] = data.grid ? [(X1 - X0) / data.grid[1], (Y1 - Y0) / data.grid[0]] : [0.02, 0.02];
    if (cell) mark([X0 + cell[1] * wide, Y0 + cell[0] * high, X0 + (cell[1] + 1) * wide, Y0 + (cell[0] + 1) * high], "here");
    else mark([point[0] - wide / 2, point[1] - high / 2, point[0] + wide / 2, point[1] + high / 2], "here");
  }
  words.forEach(({ button, number }, t) => {
    const share = point ? Math.min(1, heat(t, [point[0]], [point[1]])[0] / data.tops[t]) : 0;
    button.style.setProperty("--heat", share.toFixed(3));
    button.classList.toggle("hot", share > 0.6);
    button.classList.toggle("shown", t === word);
    button.setAttribute("aria-pressed", String(t === now.held));
    number.textContent = point ? percent(weightAt(t, ...point)) : t === word ? percent(data.peaks[t]) : "";
  });
  report.textContent = told(word, point);
}

const from = (x, y) => `${Math.round(100 * x)} % from the left, ${Math.round(100 * y)} % from the top`;
function told(word, point) {
  if (point) {
    if (!inside(data.seen, ...point)) return "The model did not see this part of the photo.";
    const best = words.map((_, t) => t).sort((a, b) => weightAt(b, ...point) - weightAt(a, ...point)).slice(0, 3);
    return `Here, ${from(...point)}, looked most: ${best.map((t) => `${data.tokens[t]} ${percent(weightAt(t, ...point))}`).join(", ")}`;
  }
  if (word === null) return T ? data.hint : "The caption has no words.";
  const n = weights[word].indexOf(Math.max(...weights[word]));
  const [rows, columns] = data.grid || [1, 1];
  const [x0, y0, x1, y1] = data.boxes ? data.boxes[n] : [0, 0, 1, 1];
  const x = data.boxes ? (x0 + x1) / 2 : X0 + (((n % columns) + 0.5) / columns) * (X1 - X0);
  const y = data.boxes ? (y0 + y1) / 2 : Y0 + ((Math.floor(n / columns) + 0.5) / rows) * (Y1 - Y0);
  return `“${data.tokens[word]}” looked most ${from(x, y)}: ${percent(data.peaks[word])} of its attention`;
}

function halt() {
  clearInterval(halt.timer);
  now.playing = null;
  play.textContent = "Play";
  play.setAttribute("aria-pressed", "false");
}
function change(values) {
  halt();
  Object.assign(now, values);
  render();
}

// A mouse that only moves does not stop the playing; a finger does, as does any click or key.
const moved = (event) => event.pointerType === "mouse" && now.playing === null;
words.forEach(({ button }, word) => {
  button.addEventListener("pointerenter", (event) => { if (moved(event)) change({ hover: word, point: null }); });
  button.addEventListener("pointerleave", (event) => { if (moved(event)) change({ hover: null }); });
  button.addEventListener("click", () => change({ held: now.held === word ? null : word, point: null }));
  button.addEventListener("focus", () => {
    words.forEach((other, t) => { other.button.tabIndex = t === word ? 0 : -1; });
    if (button.matches(":focus-visible")) change({ point: null, held: now.held === null ? null : word });
  });
  button.addEventListener("blur", () => { if (now.playing === null) render(); });
});
find("words").addEventListener("keydown", (event) => {
  const at = words.findIndex(({ button }) => button === document.activeElement);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: T - 1 }[event.key];
  if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  words[(to + T) % T].button.focus();
});

function pointAt(event) {
  const box = stage.getBoundingClientRect();
  const inPhoto = (value) => Math.min(1, Math.max(0, value));
  change({ point: [inPhoto((event.clientX - box.left) / box.width), inPhoto((event.clientY - box.top) / box.height)], hover: null });
}
stage.addEventListener("pointermove", (event) => { if (event.pointerType !== "mouse" || moved(event)) pointAt(event); });
stage.addEventListener("pointerdown", pointAt);
stage.addEventListener("pointerleave", (event) => { if (moved(event)) change({ point: null }); });
stage.addEventListener("blur", () => change({ point: null }));
stage.addEventListener("keydown", (event) => {
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const [wide, high] = data.grid ? [(X1 - X0) / data.grid[1], (Y1 - Y0) / data.grid[0]] : [0.05, 0.05];
  // From the middle of the cell that holds the point, so that each step is one cell.
  const middle = data.grid ? [X0 + (Math.floor(data.grid[1] / 2) + 0.5) * wide, Y0 + (Math.floor(data.grid[0] / 2) + 0.5) * high] : [0.5, 0.5];
  const cell = now.point && cellAt(...now.point);
  const start = cell ? [X0 + (cell[1] + 0.5) * wide, Y0 + (cell[0] + 0.5) * high] : now.point || middle;
  const to = now.point ? [start[0] + step[0] * wide, start[1] + step[1] * high] : start;
  const within = (value, low, high) => Math.min(high, Math.max(low, value));
  change({ point: [within(to[0], X0 + wide / 2, X1 - wide / 2), within(to[1], Y0 + high / 2, Y1 - high / 2)], hover: null });
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") change({ held: null, point: null, hover: null }); });

play.addEventListener("click", () => {
  const start = now.playing === null && T > 0;
  change({ hover: null, held: null, point: null });
  if (!start) return;
  play.textContent = "Stop";
  play.setAttribute("aria-pressed", "true");
  now.playing = 0;
  render();
  halt.timer = setInterval(() => {
    if (++now.playing >= T) halt();
    render();
  }, data.milliseconds);
});

(() => { // the colours of the legend
  const context = find("ramp").getContext("2d"), image = context.createImageData(256, 1);
  image.data.set(colours);
  context.putImageData(image, 0, 0);
})();
render();
