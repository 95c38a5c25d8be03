// Beam search for one image, with the results of captioner/onnx/beam.py; numbers are rounded to 32 bits where it does.
const [PAD, BOS, EOS, UNK] = [0, 1, 2, 3];
const NEVER = -Infinity;

// The score by which finished captions are compared.
const normalised = (logProbability, length, { length_normalisation: power }) =>
  Math.fround(logProbability / Math.fround(length ** power));

// Set the forbidden next words of one hypothesis to minus infinity.
function constrain(row, words, settings) {
  const ending = row[EOS], { block_ngram: n } = settings;
  row[PAD] = row[BOS] = NEVER;
  if (settings.forbid_unknown) row[UNK] = NEVER;
  if (words.length < settings.min_words) row[EOS] = NEVER;
  for (let start = 0; n && start + n <= words.length; start++) {
    const repeats = words.slice(start, start + n - 1).every((word, i) => word === words[words.length - n + 1 + i]);
    if (repeats) row[words[start + n - 1]] = NEVER;
  }
  if (row.every((value) => value === NEVER)) row[EOS] = ending;
}

// The `count` best next words of all hypotheses, best first.
function bestOf(rows, totals, count) {
  const found = [];
  rows.forEach((row, parent) => {
    row.forEach((value, word) => {
      const total = Math.fround(value + totals[parent]);
      if (!(total > (found.length < count ? NEVER : found[count - 1].total))) return;
      let at = found.length;
      while (at && found[at - 1].total < total) at--;
      found.splice(at, 0, { total, parent, word });
      if (found.length > count) found.pop();
    });
  });
  return found;
}

// Find the `count` best captions: { words, logProbability, score, attention, finished }, attention a row for each word or null.
// `step(words, state)` scores the next words of hypotheses: { rows, attention, state }; `pick(state, parents)` is the
// state of others.
async function beam(step, pick, state, settings, count) {
  const { max_words: most, n_best: least, prune } = settings, ended = [];
  let live = [{ words: [], total: 0, attention: [] }], width = settings.width, attends = false;
  for (let length = 1; length <= most && live.length; length++) {
    const after = await step(live.map(({ words }) => words.at(-1) ?? BOS), state);
    attends = after.attention !== null;
    after.rows.forEach((row, i) => constrain(row, live[i].words, settings));
    const found = bestOf(after.rows, live.map(({ total }) => total), width), open = [];
    const chosen = found.filter(({ total }, rank) => !prune || rank < least || total >= Math.fround(found[0].total - prune));
    const before = ended.length;
    chosen.forEach(({ total, parent, word }) => {
      const { words, attention } = live[parent], looked = attends ? after.attention[parent] : null;
      if (word === EOS) {
        ended.push({ words, total, attention, finished: true, score: normalised(total, length, settings) });
      } else open.push({ words: [...words, word], total, parent, attention: [...attention, looked] });
    });
    width -= ended.length - before;
    const scores = ended.map(({ score }) => score).sort((a, b) => b - a);
    const bar = scores.length < count ? NEVER : scores[count - 1];
    const canWin = open.length > 0 && normalised(open[0].total, most, settings) >= bar;
    if (length === most) {
      open.forEach((one) => ended.push({ ...one, finished: false, score: normalised(one.total, length, settings) }));
    }
    live = canWin ? open : [];
    if (live.length) state = pick(after.state, live.map(({ parent }) => parent));
  }
  ended.sort((a, b) => b.finished - a.finished || b.score - a.score);
  return ended.slice(0, count).map(({ words, total, attention, finished, score }) => (
    { words, logProbability: total, score, finished, attention: attends ? attention : null }
  ));
}
