// The page of captioner serve: uploads images, several at a time, and shows each caption in an explorer.
const served = JSON.parse(document.getElementById("data").textContent);
const the = (name) => document.getElementById(name);
const items = []; // images, newest first: { file, name, element, answers: Map of model -> answer, failure, thumbnail }
const AT_ONCE = 8, TRIES = 20; // the server captions waiting images in one batch

the("terms").textContent =
  `JPEG, PNG, WebP, HEIC, GIF, TIFF and more, up to ${served.megabytes.toFixed(0)} MB each.`;
served.models.forEach(([name, title]) => {
  the("model").append(new Option(title, name));
  the("rival").append(new Option(title, name));
});
the("models").hidden = served.models.length < 2;

// The models whose captions are shown.
const chosen = () => [...new Set([the("model").value, the("rival").value])].filter(Boolean);
const say = (text) => { the("news").textContent = text; };
// The server's token, if it has one, comes in the address after #, which browsers do not send.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token === null ? {} : { authorization: `Bearer ${token}` };
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Send an image; if the server is busy, wait for the seconds in Retry-After and try again.
async function send(path, file, parameters) {
  for (let left = TRIES; ; left--) {
    const form = new FormData();
    form.append("image", file, file.name || "image");
    let answer;
    try {
      answer = await fetch(`${path}?${new URLSearchParams(parameters)}`, { method: "POST", body: form, headers });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (answer.ok) return answer;
    if ((answer.status === 429 || answer.status === 503) && left > 1) {
      await pause(Number(answer.headers.get("retry-after")) || 2);
      continue;
    }
    const { detail } = await answer.json().catch(() => ({}));
    const error = new Error(typeof detail === "string" ? detail : `The server answered ${answer.status}.`);
    throw Object.assign(error, { final: answer.status < 500 });
  }
}

// Requests in progress, and the queue.
const waiting = [];
let working = 0;
function start() {
  while (working < AT_ONCE && waiting.length) {
    const { item, model } = waiting.shift();
    if (!items.includes(item)) continue;
    working++;
    captioned(item, model).finally(() => { working--; start(); });
  }
}
async function captioned(item, model) {
  try {
    const answer = await send("caption", item.file, { model, figure: true });
    item.answers.set(model, await answer.json());
  } catch (error) {
    item.failure = error.message;
    item.refused = Boolean(error.final);
  }
  item.asked.delete(model);
  if (!items.includes(item)) return;
  draw(item);
  const found = item.answers.get(model);
  say(`${item.name}: ${found ? found.caption : item.failure}`);
}

// Request the selected captions that are missing.
function ask(item) {
  chosen().filter((model) => !item.answers.has(model) && !item.asked.has(model) && !item.refused).forEach((model) => {
    item.failure = null;
    item.asked.add(model);
    waiting.push({ item, model });
  });
  draw(item);
}

function add(files) {
  const added = [...files];
  added.reverse().forEach((file) => { // keeps the order of images added together
    const element = make("article", "result");
    const item = { file, element, name: file.name || "image", answers: new Map(), asked: new Set(), failure: null };
    if (file.size > 1e6 * served.megabytes) {
      item.refused = true;
      item.failure = `This image has ${(file.size / 1e6).toFixed(1)} MB, and this server takes up to `
        + `${served.megabytes.toFixed(0)} MB; send a smaller one.`;
    }
    item.thumbnail = URL.createObjectURL(file);
    items.unshift(item);
    the("results").prepend(element);
    ask(item);
  });
  if (added.length) say(added.length === 1 ? `Captioning ${added[0].name || "the image"}` : `Captioning ${added.length} images`);
  start();
  count();
}

function remove(item) {
  const at = items.indexOf(item), next = items[at + 1] || items[at - 1];
  items.splice(at, 1);
  item.element.remove();
  URL.revokeObjectURL(item.thumbnail);
  (next ? next.element.querySelector(".remove") : the("choose")).focus();
  count();
}

function count() {
  the("bar").hidden = !items.length;
  the("drop").classList.toggle("narrow", items.length > 0);
  the("count").textContent = items.length === 1 ? "1 image" : `${items.length} images`;
  const done = rows().length;
  the("csv").disabled = the("json").disabled = !done;
}

function button(label, action, kind = "") {
  const element = make("button", kind, label);
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

function draw(item) {
  const focused = item.element.contains(document.activeElement);
  const title = make("h2", "", item.name), cross = button("×", () => remove(item), "remove");
  cross.setAttribute("aria-label", `Remove ${item.name}`);
  item.element.replaceChildren(make("div", "top", title, cross));
  const answers = chosen().map((model) => item.answers.get(model)).filter(Boolean);
  if (item.failure) {
    const line = make("p", "failed", item.failure);
    item.element.append(line);
    if (!item.refused) {
      item.element.append(make("p", "tools", button("Try again", () => { ask(item); start(); })));
    }
  }
  if (item.asked.size) {
    const small = make("img", "");
    small.alt = "";
    small.src = item.thumbnail;
    small.addEventListener("error", () => small.remove()); // the browser cannot show this format
    item.element.append(make("div", "waiting", small, make("span", "", `Captioning with ${[...item.asked].join(" and ")} …`)));
  }
  if (answers.length && !item.asked.size) {
    const root = make("div", "explorer");
    root.append(the("explorer").content.cloneNode(true));
    item.element.append(root);
    const figure = together(answers);
    const shown = root.querySelector(".image");
    shown.src = figure.photo;
    shown.alt = answers[0].caption;
    const { playOnce } = explore(root, figure);
    item.element.append(tools(item, answers));
    // The attention of a new caption plays once.
    if (!item.played && !matchMedia("(prefers-reduced-motion: reduce)").matches) playOnce(true);
    item.played = true;
  }
  if (focused) item.element.querySelector("button").focus();
  count();
}

// Merge the figures of one image by several models.
function together(answers) {
  if (answers.length === 1) return answers[0].figure;
  const captions = [], views = [];
  answers.forEach(({ figure, model }) => {
    figure.captions.forEach((caption) => {
      captions.push({ ...caption, model, view: caption.view === null ? null : caption.view + views.length });
    });
    views.push(...figure.views);
  });
  return { ...answers[0].figure, captions, views };
}

function tools(item, answers) {
  const drawn = answers.filter(({ figure }) => figure.captions[0].view !== null);
  const row = make("p", "tools"), [{ caption }] = answers;
  row.append(button("Copy caption", () => copy(caption, "the caption")));
  row.append(button("Copy as alt text", () => copy(`alt="${escaped(caption)}"`, "the caption as alt text")));
  if (drawn.length) {
    row.append(make("span", "", drawn.length > 1 ? "Save the figures:" : "Save the figure:"));
    served.figures.forEach((format) => row.append(button(format.toUpperCase(), () => saveFigures(item, drawn, format))));
  } else row.append(make("span", "", "This model has no attention over the image, so there is no figure."));
  return row;
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text); // not there without HTTPS from another machine
  } catch {
    const field = make("textarea", "unseen", text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say(`Copied ${what}`);
}

async function saveFigures(item, answers, format) {
  for (const { model } of answers) {
    try {
      const answer = await send("figure", item.file, { model, format });
      const stem = item.name.replace(/\.[^.]*$/, "") + (answers.length > 1 ? `.${model}` : "");
      save(await answer.blob(), `${stem}.attention.${format}`);
      say(`Saved ${stem}.attention.${format}`);
    } catch (error) {
      say(error.message);
    }
  }
}

function save(blob, name) {
  const link = make("a", "");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// The shown captions, oldest image first.
function rows() {
  return [...items].reverse().flatMap((item) => chosen().map((model) => item.answers.get(model)).filter(Boolean)
    .map(({ figure, ...answer }) => ({ ...answer, image: item.name })));
}
// A CSV field; a quote keeps spreadsheets from running it as a formula.
function field(value) {
  const text = String(value), safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
the("csv").addEventListener("click", () => {
  const columns = ["image", "model", "caption", "log_probability"];
  const lines = [columns, ...rows().map((row) => columns.map((column) => field(row[column])))];
  save(new Blob([lines.map((line) => `${line.join(",")}\n`).join("")], { type: "text/csv" }), "captions.csv");
});
the("json").addEventListener("click", () => {
  save(new Blob([`${JSON.stringify(rows(), null, 2)}\n`], { type: "application/json" }), "captions.json");
});
the("clear").addEventListener("click", () => {
  items.splice(0).forEach((item) => { URL.revokeObjectURL(item.thumbnail); });
  the("results").replaceChildren();
  count();
  the("choose").focus();
});
for (const name of ["model", "rival"]) {
  the(name).addEventListener("change", () => {
    items.forEach(ask);
    start();
  });
}

// Examples, until there is an image.
served.examples.forEach((name) => {
  const image = make("img", ""), pick = button("", async () => {
    const answer = await fetch(`examples/${encodeURIComponent(name)}`);
    const blob = await answer.blob();
    add([new File([blob], name, { type: blob.type })]);
  });
  image.src = `examples/${encodeURIComponent(name)}`;
  image.alt = name;
  pick.append(image);
  the("examples").querySelector(".choices").append(pick);
});
the("examples").hidden = !served.examples.length;

// Input: file dialog, drag and drop anywhere on the page, paste, or camera.
the("choose").addEventListener("click", () => the("files").click());
the("files").addEventListener("change", ({ target }) => { add(target.files); target.value = ""; });
const holdsFiles = ({ dataTransfer }) => dataTransfer && [...dataTransfer.types].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  the("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) the("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  the("drop").classList.remove("over");
  if (!holdsFiles(event)) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData && event.clipboardData.files.length) add(event.clipboardData.files);
});

const viewfinder = the("viewfinder"), video = the("video");
let shots = 0;
the("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices) { // unavailable without HTTPS from another machine; use the phone's camera app
    const picker = make("input", "");
    Object.assign(picker, { type: "file", accept: "image/*" });
    picker.setAttribute("capture", "environment");
    picker.addEventListener("change", () => add(picker.files));
    picker.click();
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    viewfinder.showModal();
    the("take").focus();
  } catch (error) {
    the("terms").textContent = `The camera cannot be used (${error.message}). Choose an image instead.`;
    say(the("terms").textContent);
  }
});
the("take").addEventListener("click", () => {
  if (!video.videoWidth) return;
  const canvas = make("canvas", "");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    shots++;
    add([new File([blob], `camera-${shots}.jpg`, { type: "image/jpeg" })]);
    viewfinder.close();
  }, "image/jpeg", 0.92);
});
the("close").addEventListener("click", () => viewfinder.close());
viewfinder.addEventListener("close", () => {
  if (video.srcObject) video.srcObject.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  the("camera").focus();
});
count();
