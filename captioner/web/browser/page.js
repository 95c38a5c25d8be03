// The page without a server: a web worker captions the images; see captioner/web/items.js for the page itself.
const waits = new Map(); // number of an image -> { item, resolve, reject }
let asked = 0, worker = null, loading = ""; // what the worker does before it can caption

const terms = () => loading || `JPEG, PNG, WebP and more, up to ${served.megabytes.toFixed(0)} MB each.`;

// The worker comes from a blob, so that the page's Content-Security-Policy holds for it too: it can send nothing elsewhere.
async function begun() {
  if (typeof WebAssembly !== "object" || typeof OffscreenCanvas !== "function" || !simd()) {
    throw new Error("This browser lacks WebAssembly with SIMD, which captions images here; use one of 2023 or newer.");
  }
  if (location.protocol === "file:") {
    throw new Error("Browsers load no model from files: put the folder on a web host, or run python -m http.server in it.");
  }
  const answer = await fetch("worker.js");
  if (!answer.ok) throw new Error(`worker.js: the web host answers ${answer.status}; upload the whole folder again.`);
  const url = URL.createObjectURL(new Blob([await answer.text()], { type: "text/javascript" }));
  const made = new Worker(url, { type: "module" });
  made.addEventListener("message", ({ data }) => heard(data));
  made.addEventListener("error", ({ message }) => failed(`The captioner has stopped (${message}); reload the page.`));
  made.postMessage({ base: new URL(".", location.href).href });
  return made;
}

// Whether WebAssembly has SIMD: a function that makes a vector of zeros is valid.
function simd() {
  return WebAssembly.validate(Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
  ));
}

function heard({ number, doing, ready, answer, error, final }) {
  if (number === undefined) {
    if (error) failed(error);
    else loads(ready ? "" : doing);
    return;
  }
  const { item, resolve, reject } = waits.get(number);
  if (doing) {
    tell(item, doing);
    return;
  }
  waits.delete(number);
  if (error) reject(Object.assign(new Error(error), { final }));
  else resolve(answer);
}

function loads(doing, isFault = false) {
  loading = doing;
  the("terms").textContent = terms();
  the("terms").classList.toggle("failed", isFault);
  waits.forEach(({ item }) => tell(item, doing || "Waiting"));
}

function failed(message) {
  loads(message, true);
  worker?.then((made) => made.terminate(), () => {});
  worker = null;
  waits.forEach(({ reject }) => reject(new Error(message)));
  waits.clear();
}

// Start the worker, unless there is one.
function running() {
  if (worker) return worker;
  loads("Loading the model");
  worker = begun();
  worker.catch(({ message }) => failed(message));
  return worker;
}

async function captionOf(item) {
  const ready = await running(), number = ++asked;
  const found = new Promise((resolve, reject) => { waits.set(number, { item, resolve, reject }); });
  tell(item, loading || "Waiting");
  ready.postMessage({ number, file: item.file });
  return found;
}

queueMicrotask(running); // after the rest of the page's script
