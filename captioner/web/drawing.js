// Draws an image with its captions, and as a tile of the grid.
function button(label, action, kind = "") {
  const element = make("button", kind, label);
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

// The legend is on the page once, for all explorers.
the("guide").append(...the("explorer").content.querySelectorAll(".control"));
the("hint").textContent = matchMedia("(pointer: coarse)").matches ? served.touch_hint : served.hint;

function draw(item) {
  if (item.tile.isConnected) drawTile(item);
  if (item.element.isConnected) drawWhole(item);
  count();
}

function drawTile(item) {
  const [image, line, name] = item.tile.firstElementChild.children, [answer] = answersOf(item);
  const text = answer && textOf(item, answer);
  const address = item.photo || item.thumbnail;
  if (image.getAttribute("src") !== address) image.src = address;
  line.textContent = item.failure || (item.asked.size ? "…" : text ?? "…");
  line.lang = item.failure ? ENGLISH : language();
  line.classList.toggle("failed", Boolean(item.failure));
  name.textContent = item.name + (answer && isEdited(item, answer) ? " · edited" : "");
}

function makeTile(item) {
  const image = make("img", "");
  Object.assign(image, { alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.removeAttribute("src")); // the browser cannot show this format
  const tile = button("", () => enlarge(item));
  tile.append(image, make("span", "line"), make("span", "small"));
  return make("li", "tile", tile);
}

function drawWhole(item) {
  const focus = item.element.contains(document.activeElement) ? document.activeElement : null;
  if (focus && focus.tagName === "TEXTAREA" && !item.asked.size) return; // somebody writes
  const title = make("h2", "", item.name), cross = button("", () => remove(item), "remove");
  title.tabIndex = -1;
  cross.setAttribute("aria-label", `Remove ${item.name}`);
  item.element.replaceChildren(make("div", "top", title, cross));
  if (item.failure) {
    item.element.append(make("p", "failed", item.failure));
    if (!item.refused) item.element.append(make("p", "tools", button("Try again", () => { ask(item); start(); })));
  }
  if (item.asked.size) drawWaiting(item);
  const answers = item.asked.size ? [] : answersOf(item);
  if (answers.length) drawCaptions(item, answers);
  if (focus) (focus.tagName === "H2" ? title : cross).focus();
}

function drawWaiting(item) {
  const small = make("img", ""), models = [...item.asked].map((model) => titles.get(model)).join(" and ");
  small.alt = "";
  small.src = item.photo || item.thumbnail;
  small.addEventListener("error", () => small.remove()); // the browser cannot show this format
  item.element.append(make("div", "waiting", small, make("span", "", item.doing || `Captioning with ${models} …`)));
}

function drawCaptions(item, answers) {
  const root = make("div", "explorer");
  root.append(the("explorer").content.cloneNode(true));
  item.element.append(root);
  const figure = together(answers), shown = root.querySelector(".image");
  shown.src = figure.photo;
  shown.alt = textOf(item, answers[0]) ?? answers[0].caption;
  root.before(make("p", "sentence"));
  showSentence(item, answers[0]);
  const { playOnce } = explore(root, figure, the("guide"));
  item.element.append(...answers.map((answer) => field(item, answer, answers.length > 1)), tools(item, answers));
  // The attention of a new caption plays once.
  if (!item.played && !matchMedia("(prefers-reduced-motion: reduce)").matches) playOnce(true);
  item.played = true;
}

// The caption in another language, or edited. The words below it, which have the attention, stay those of the model.
function showSentence(item, answer) {
  const line = item.element.querySelector(".sentence"), text = textOf(item, answer) ?? "…";
  Object.assign(line, { textContent: text, lang: language(), hidden: text === answer.caption });
}

// Merge the figures of one image by several models.
function together(answers) {
  const captions = [], views = [];
  answers.forEach(({ figure, model }) => {
    figure.captions.forEach((caption) => {
      const view = caption.view === null ? null : caption.view + views.length;
      captions.push({ ...caption, view, ...(answers.length > 1 && { model }) });
    });
    views.push(...figure.views);
  });
  return { ...answers[0].figure, captions, views, hint: "", touch_hint: "" };
}

// The caption to edit.
function field(item, answer, several) {
  const code = language(), text = textOf(item, answer, code);
  const area = make("textarea", ""), mark = make("span", "mark", "edited");
  const restore = button("Restore", () => {
    area.value = original(item, answer, code);
    area.dispatchEvent(new Event("input"));
    area.dispatchEvent(new Event("change"));
    area.focus();
  });
  restore.setAttribute("aria-label", `Restore the caption of the model for ${item.name}`);
  const of = several ? ` by ${titles.get(answer.model)}` : "", into = code === ENGLISH ? "" : ` in ${languageName(code)}`;
  Object.assign(area, { rows: 2, maxLength: 2000, lang: code, value: text ?? "", disabled: text === null });
  area.placeholder = text === null ? "Translating …" : "";
  const show = () => { mark.hidden = restore.hidden = !isEdited(item, answer, code); };
  area.addEventListener("input", () => {
    edit(item, answer, area.value);
    showSentence(item, answersOf(item)[0]);
    show();
  });
  area.addEventListener("change", () => {
    say(isEdited(item, answer, code) ? "Caption edited" : "The caption of the model");
    if (item.tile.isConnected) drawTile(item);
    translate();
  });
  show();
  return make("div", "field", make("label", "", make("span", "small", `Edit the caption${of}${into}`), area), mark, restore);
}

function tools(item, answers) {
  const drawn = answers.filter(({ figure }) => figure.captions[0].view !== null);
  const row = make("p", "tools"), text = () => textOf(item, answers[0]) ?? answers[0].caption;
  row.append(button("Copy caption", () => copy(text(), "the caption")));
  row.append(button("Copy as alt text", () => copy(`alt="${escaped(text())}"`, "the caption as alt text")));
  if (drawn.length && served.figures.length) {
    row.append(make("span", "", drawn.length > 1 ? "Save the figures:" : "Save the figure:"));
    served.figures.forEach((format) => row.append(button(format.toUpperCase(), () => saveFigures(item, drawn, format))));
  } else if (!drawn.length) row.append(make("span", "", "This model has no attention over the image, so there is no figure."));
  return row;
}
