// The encoder's pixels of an image, as captioner/data/transform.py makes them. Pillow's resize is repeated in its own
// integers, because the browser's differs from it enough to change captions.
const PRECISION = 22; // binary digits of a coefficient after the point, as in Pillow's Resample.c
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5, d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Python's round(): halves go to the even neighbour.
function rounded(value) {
  const whole = Math.floor(value), rest = value - whole;
  return rest === 0.5 ? whole + (whole % 2) : Math.round(value);
}

// The part of an image of width x height that is seen: x0, y0, x1, y1 in its own pixels.
function boxOf({ size, fit, crop_fraction: kept }, width, height) {
  if (fit === "squash") return [0, 0, width, height];
  const short = rounded(size / kept);
  const resized = [
    width <= height ? short : Math.trunc((short * width) / height),
    height <= width ? short : Math.trunc((short * height) / width),
  ];
  const [left, top] = resized.map((side) => rounded((side - size) / 2));
  const x = width / resized[0], y = height / resized[1];
  return [left * x, top * y, Math.min((left + size) * x, width), Math.min((top + size) * y, height)];
}

// For each of `count` outputs between `from` and `to` of an axis: its first input and its coefficients. Pillow has boxes in
// 32 bits.
function coefficients(length, from, to, count, [support, weight]) {
  const low = Math.fround(from), scale = Math.fround(Math.fround(to) - low) / count, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: count }, (_, i) => {
    const centre = low + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(length, Math.trunc(centre + reach + 0.5));
    const exact = Array.from({ length: last - first }, (_, n) => weight((n + first - centre + 0.5) * (1 / stretch)));
    const sum = exact.reduce((total, each) => total + each, 0);
    const whole = exact.map((each) => {
      const scaled = (sum === 0 ? each : each / sum) * (1 << PRECISION);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, kernel: Int32Array.from(whole) };
  });
}

// Resample one axis of bytes. `from` and `to` are the numbers of inputs and outputs of a line, `apart` the bytes between
// two of them; there are `groups` blocks of `apart` lines.
function resample(bytes, from, apart, groups, plan) {
  const to = plan.length, out = new Uint8ClampedArray(groups * to * apart), half = 1 << (PRECISION - 1);
  for (let group = 0; group < groups; group++) {
    const source = group * from * apart, target = group * to * apart;
    for (let i = 0; i < to; i++) {
      const { first, kernel } = plan[i], taps = kernel.length, begin = source + first * apart;
      for (let line = 0; line < apart; line++) {
        let sum = half;
        for (let n = 0, at = begin + line; n < taps; n++, at += apart) sum += bytes[at] * kernel[n];
        out[target + i * apart + line] = sum >> PRECISION; // clamped to 0..255
      }
    }
  }
  return out;
}

// The pixels (S, S, 3) of an image that gives rows of it as RGB bytes: rows(y, count).
function squareOf({ width, height, rows }, transform) {
  const { size } = transform, filter = FILTERS[transform.interpolation];
  const [x0, y0, x1, y1] = boxOf(transform, width, height);
  const across = coefficients(width, x0, x1, size, filter), down = coefficients(height, y0, y1, size, filter);
  const same = (plan, length, low, high) => low === 0 && high === length && plan.length === length;
  if (transform.fit === "squash" && height > 64 * width) { // Python resizes the height of a narrow strip first
    const narrow = resample(rows(0, height), height, 3 * width, 1, down);
    return same(across, width, x0, x1) ? narrow : resample(narrow, width, 3, size, across);
  }
  const wide = new Uint8ClampedArray(height * size * 3);
  const together = Math.max(1, Math.floor(4e6 / width)); // rows of a piece, to bound the memory
  for (let y = 0; y < height; y += together) {
    const count = Math.min(together, height - y), piece = rows(y, count);
    wide.set(same(across, width, x0, x1) ? piece : resample(piece, width, 3, count, across), y * size * 3);
  }
  return same(down, height, y0, y1) ? wide : resample(wide, height, 3 * size, 1, down);
}
