// Choosing among hypotheses by expected n-grams; see captioner/search/consensus.py.
const LONGEST_NGRAM = 4;

// The arrays of a safetensors file by name.
function readSafetensors(buffer) {
  const kinds = { F32: Float32Array, I32: Int32Array, I8: Int8Array };
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return Object.fromEntries(arrays.map(([name, { dtype, data_offsets: [begin, end] }]) => (
    [name, new kinds[dtype](buffer.slice(8 + length + begin, 8 + length + end))])));
}

function unit(values) {
  const length = Math.max(Math.hypot(...values), 1e-12);
  return values.map((value) => value / length);
}

function ngramCounts(words) {
  return Array.from({ length: LONGEST_NGRAM }, (_, n) => {
    const counts = new Map();
    for (let start = 0; start + n < words.length; start++) {
      const ngram = words.slice(start, start + n + 1).join(" ");
      counts.set(ngram, (counts.get(ngram) || 0) + 1);
    }
    return counts;
  });
}

class Consensus {
  constructor(buffer) {
    Object.assign(this, readSafetensors(buffer));
    this.rank = this["down.row_scale"].length;
    this.numbers = new Map(); // row of each n-gram
    this.idf.forEach((_, row) => {
      const words = this.words.subarray(LONGEST_NGRAM * row, LONGEST_NGRAM * (row + 1));
      this.numbers.set(words.filter(Boolean).join(" "), row);
    });
    this.unknown = Math.log(Math.max(this.images[0], 2)); // idf of an n-gram without a row
  }

  // The code of an image from its features (N, D), one after the other in an array.
  codeOf(features) {
    const d = this.centre.length, cells = features.length / d, pooled = new Float64Array(d);
    features.forEach((value, i) => { pooled[i % d] += value / cells; });
    const given = unit(unit(pooled).map((value, i) => value - this.centre[i]));
    return Float64Array.from({ length: this.rank }, (_, r) => {
      let sum = 0;
      for (let i = 0; i < d; i++) sum += given[i] * this.down[r * d + i];
      return sum * this["down.row_scale"][r];
    });
  }

  // What the image's captions are expected to have of an n-gram.
  expected(code, row) {
    let sum = 0;
    for (let r = 0; r < this.rank; r++) sum += code[r] * this.up[row * this.rank + r];
    return sum * this["up.row_scale"][row] + this.mean[row];
  }

  // The expected CIDEr of a caption, from 0 to about 1.
  expectedCider(code, words) {
    const ofLength = ngramCounts(words).map((counts) => {
      let product = 0, square = 0;
      counts.forEach((count, ngram) => {
        const row = this.numbers.get(ngram), idf = row === undefined ? this.unknown : this.idf[row];
        square += (count * idf) ** 2;
        if (row !== undefined) product += idf * this.expected(code, row);
      });
      return square ? product / Math.sqrt(square) : 0;
    });
    return ofLength.reduce((sum, value) => sum + value, 0) / LONGEST_NGRAM;
  }
}

// Search, and rank all hypotheses of the beam by score + consensus * expected CIDEr.
async function searchWithConsensus(find, settings, consensus, features) {
  if (!consensus || !settings.consensus || settings.width === 1) return find(settings, settings.n_best);
  const found = await find(settings, settings.width), code = consensus.codeOf(features);
  found.forEach((one) => { one.score += settings.consensus * consensus.expectedCider(code, one.words); });
  found.sort((a, b) => b.finished - a.finished || b.score - a.score);
  return found.slice(0, settings.n_best);
}
