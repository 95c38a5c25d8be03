// The worker of the page: it loads the model's files and onnxruntime, and captions one image after the other.
// It gets { base } once, then { number, file } for each image, and answers { number, doing }, { number, answer } or
// { number, error, final }; messages about loading have no number.
const [PIXELS, FEATURES, TOKENS, LOG_PROBABILITIES, ATTENTION] =
  ["pixels", "features", "tokens", "log_probabilities", "attention"];
const [STATE, NEXT] = ["state.", "next."]; // see captioner/onnx/folder.py

let model = null; // a promise of what load() returns

async function responseOf(url, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch {
    throw new Error(`${url}: the web host does not answer; reload the page`);
  }
  if (!response.ok) throw new Error(`${url}: the web host answers ${response.status}; upload the whole folder again`);
  return response;
}

// Download files of known sizes side by side, and tell how much is there.
async function download(sizes, base, tell) {
  const total = Object.values(sizes).reduce((sum, size) => sum + size, 0), megabytes = (size) => Math.floor(size / 1e6);
  const stop = new AbortController(); // one that fails ends all
  let there = 0;
  async function one(name, size) {
    const response = await responseOf(new URL(name, base), stop.signal), reader = response.body.getReader();
    const bytes = new Uint8Array(size);
    let at = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const { value } = part;
      if (at + value.length <= size) bytes.set(value, at);
      at += value.length;
      there += value.length;
      tell(`Loading the model ${megabytes(Math.min(there, total))} of ${Math.ceil(total / 1e6)} MB`);
    }
    if (at !== size) {
      throw new Error(`${response.url}: has ${at} bytes and not ${size}; reload the page, or upload the whole folder again`);
    }
    return [name, bytes];
  }
  try {
    return Object.fromEntries(await Promise.all(Object.entries(sizes).map(([name, size]) => one(name, size))));
  } catch (error) {
    stop.abort();
    throw error;
  }
}

async function load(base, tell) {
  const settings = await (await responseOf(new URL("model/settings.json", base))).json();
  const files = await download(settings.files, base, tell);
  tell("Starting");
  const ort = await import(new URL(settings.runtime.script, base));
  ort.env.wasm.wasmBinary = files[settings.runtime.wasm].buffer;
  // Threads share memory, which browsers permit only to pages that the web host isolates by its headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  const sessions = {};
  for (const name of ["encoder", "start", "step"]) { // one after the other: onnxruntime starts with the first
    sessions[name] = await ort.InferenceSession.create(files[`model/${name}.onnx`], { executionProviders: ["wasm"] });
  }
  const consensus = files["model/consensus.safetensors"];
  const { special, words } = JSON.parse(new TextDecoder().decode(files["model/vocabulary.json"]));
  return {
    ort, settings, ...sessions, words: [...special, ...words],
    consensus: consensus ? new Consensus(consensus.buffer) : null,
  };
}

// The last axis of a tensor, row by row.
function rowsOf({ data, dims }) {
  const long = dims.at(-1);
  return Array.from({ length: data.length / long }, (_, i) => data.subarray(i * long, (i + 1) * long));
}

async function searched({ ort, settings, start, step, consensus }, features) {
  const { hypotheses, images, attends } = settings;
  const begun = await start.run({ [FEATURES]: features });
  const shared = Object.fromEntries(images.map((name) => [STATE + name, begun[STATE + name]]));
  const first = Object.fromEntries(hypotheses.map((name) => [name, begun[STATE + name]]));
  async function next(words, state) {
    const tokens = new ort.Tensor("int64", BigInt64Array.from(words, BigInt), [1, words.length]);
    const own = Object.fromEntries(hypotheses.map((name) => [STATE + name, state[name]]));
    const out = await step.run({ [TOKENS]: tokens, ...own, ...shared });
    return {
      rows: rowsOf(out[LOG_PROBABILITIES]),
      attention: attends ? rowsOf(out[ATTENTION]) : null,
      state: Object.fromEntries(hypotheses.map((name) => [name, out[NEXT + name]])),
    };
  }
  const pick = (state, parents) => Object.fromEntries(Object.entries(state).map(([name, { type, data, dims }]) => {
    const [, , ...rest] = dims, long = rest.reduce((product, side) => product * side, 1);
    const out = new data.constructor(parents.length * long);
    parents.forEach((parent, i) => out.set(data.subarray(parent * long, (parent + 1) * long), i * long));
    return [name, new ort.Tensor(type, out, [1, parents.length, ...rest])];
  }));
  return searchWithConsensus((search, count) => beam(next, pick, first, search, count), settings.search, consensus, features.data);
}

async function captioned(loaded, file, tell) {
  const { ort, settings, encoder } = loaded, { transform } = settings;
  tell("Looking");
  const bitmap = await decoded(file, settings.limits), { width, height } = bitmap;
  const pixels = squareOf(pictureOf(bitmap), transform);
  bitmap.close();
  const input = new ort.Tensor("uint8", new Uint8Array(pixels.buffer), [1, transform.size, transform.size, 3]);
  const { [FEATURES]: features } = await encoder.run({ [PIXELS]: input });
  tell("Writing");
  const hypotheses = await searched(loaded, features);
  if (!hypotheses.length) throw new Error(`${file.name}: the model gives numbers that are not finite; export it again`);
  const [x0, y0, x1, y1] = boxOf(transform, width, height);
  const shrink = Math.min(1, settings.side / Math.max(width, height));
  const size = [width, height].map((side) => Math.max(1, Math.round(side * shrink)));
  const figure = explorerOf(settings, loaded.words, hypotheses, [x0 / width, y0 / height, x1 / width, y1 / height], size);
  const [{ text, tokens, log_probability }] = figure.captions;
  return { image: file.name, model: settings.name, caption: text, tokens, log_probability, figure };
}

// One at a time, in the order of their messages.
let last = Promise.resolve();
self.addEventListener("message", ({ data: { base, number, file } }) => {
  if (base) {
    model = load(base, (doing) => postMessage({ doing }));
    model.then(() => postMessage({ ready: true }), ({ message }) => postMessage({ error: message }));
    return;
  }
  last = last.then(async () => {
    try {
      postMessage({ number, answer: await captioned(await model, file, (doing) => postMessage({ number, doing })) });
    } catch ({ message, final }) {
      postMessage({ number, error: message, final: Boolean(final) });
    }
  });
});
