// The images, their captions, and the language that these are shown in; and messages.
const served = JSON.parse(document.getElementById("data").textContent);
const the = (name) => document.getElementById(name);

// For screen readers.
const say = (text) => { the("news").textContent = text; };
// An error that belongs to no image, until the next one.
function complain(text = "") {
  the("problem").textContent = text;
  the("problem").hidden = !text;
}

// { file, name, element, tile, thumbnail, photo, answers: Map of model -> answer, asked: models in the queue,
//   doing: what is being done with it, edits: Map of model and language -> text, failure, refused, played }
const items = []; // newest first
const AT_ONCE = 6; // images that are captioned together: as many connections as a browser opens to one server
const ENGLISH = "en", FEW = 4; // more images than these are shown as a grid

// The models whose captions are shown.
const chosen = () => [...new Set([the("model").value, the("rival").value])].filter(Boolean);
const titles = new Map(served.models.map(([name, title]) => [name, title.split(" – ")[0]]));
const language = () => the("language").value;
const languageName = (code) => new Intl.DisplayNames([ENGLISH], { type: "language" }).of(code);

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
    const answer = await captionOf(item, model);
    keepPhoto(item, answer.figure);
    item.answers.set(model, answer);
  } catch (error) {
    item.failure = error.message;
    item.refused = Boolean(error.final);
  }
  item.asked.delete(model);
  item.doing = null;
  if (!items.includes(item)) {
    release(item);
    return;
  }
  draw(item);
  const found = item.answers.get(model);
  announce(item, `${item.name}: ${found ? found.caption : item.failure}`);
  translate();
}

// Show what is being done with an image that has no caption yet.
function tell(item, doing) {
  item.doing = doing;
  const line = item.element.querySelector(".waiting span");
  if (line) line.textContent = doing;
}

// Replace the small photo of a figure by an address of its bytes, and the image of the file by it, which may be huge.
function keepPhoto(item, figure) {
  if (!figure.photo) figure.photo = item.photo || item.thumbnail;
  if (!figure.photo.startsWith("data:")) return;
  if (!item.photo) {
    const [head, text] = figure.photo.split(",");
    URL.revokeObjectURL(item.thumbnail);
    item.thumbnail = null;
    item.photo = URL.createObjectURL(new Blob([bytes(text)], { type: head.slice(5).replace(";base64", "") }));
  }
  figure.photo = item.photo;
}
function release(item) {
  [item.thumbnail, item.photo].filter(Boolean).forEach((address) => URL.revokeObjectURL(address));
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

// The answers that are shown; none while one of them is missing.
const answersOf = (item) => chosen().map((model) => item.answers.get(model)).filter(Boolean);

// Each caption of a few images is announced; of many, their number, now and then.
let announced = 0;
function announce(item, text) {
  if (items.length <= FEW || item === opened) say(text);
  else if (Date.now() - announced > 5000 || !items.some(({ asked }) => asked.size)) {
    announced = Date.now();
    say(the("count").textContent);
  }
}

function count() {
  const number = items.length, left = items.filter(({ asked }) => asked.size).length;
  const failed = items.filter(({ failure }) => failure).length;
  const all = `${number} image${number === 1 ? "" : "s"}`;
  the("count").textContent = left ? `${number - left} of ${all}` : failed ? `${all}, ${failed} without a caption` : all;
  the("progress").hidden = !left;
  Object.assign(the("progress"), { max: number || 1, value: number - left });
  the("bar").hidden = !number;
  the("skip").hidden = !number;
  the("drop").classList.toggle("narrow", number > 0);
  const done = items.some((item) => answersOf(item).length);
  document.querySelectorAll("#download button").forEach((each) => { each.disabled = !done; });
  the("guide").hidden = !document.querySelector("#results .explorer .words");
}

// Translations of English texts, by language and text.
const translations = new Map();
const keyOf = (...parts) => parts.join("\n");
const english = (item, { model, caption }) => item.edits.get(keyOf(model, ENGLISH)) ?? caption;
const original = (item, answer, code) =>
  (code === ENGLISH ? answer.caption : translations.get(keyOf(code, english(item, answer))) ?? null);
// The text of a caption in a language; null until it is translated.
const textOf = (item, answer, code = language()) =>
  item.edits.get(keyOf(answer.model, code)) ?? original(item, answer, code);
const isEdited = (item, answer, code = language()) => item.edits.has(keyOf(answer.model, code));

let translating = false;
async function translate() {
  const code = language();
  const lacking = items.filter((item) => answersOf(item).some((answer) => textOf(item, answer, code) === null));
  if (translating || !lacking.length) return;
  const texts = [...new Set(lacking.flatMap((item) => answersOf(item).map((answer) => english(item, answer))))].slice(0, 100);
  translating = true;
  try {
    const found = await translationsOf(code, texts);
    texts.forEach((text, place) => translations.set(keyOf(code, text), found[place]));
    if (!lacking.some((item) => item.asked.size)) say(`Captions in ${languageName(code)}`);
  } catch (error) {
    complain(error.message);
    the("language").value = ENGLISH;
  }
  translating = false;
  items.forEach(draw);
  translate();
}

function edit(item, answer, text) {
  const key = keyOf(answer.model, language());
  if (text === original(item, answer, language())) item.edits.delete(key);
  else item.edits.set(key, text);
  unsaved = true;
}
