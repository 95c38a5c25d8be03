// A few images are a list. More are a grid, from which one opens large.
let opened = null;

// Put the images where they belong now.
function arrange() {
  const many = items.length > FEW;
  if (!many) opened = null;
  the("grid").hidden = !many || opened !== null;
  the("large").hidden = the("turn").hidden = opened === null;
  document.body.classList.toggle("reading", opened !== null);
  fill(the("list"), many ? [] : items.map(({ element }) => element));
  fill(the("grid"), many ? items.map(({ tile }) => tile) : []);
  fill(the("large"), opened ? [opened.element] : []);
  if (opened) the("place").textContent = `${items.indexOf(opened) + 1} of ${items.length}`;
  count();
}

// Change the children of an element to these; those that stay keep the focus.
function fill(parent, children) {
  [...parent.children].filter((child) => !children.includes(child)).forEach((child) => {
    child.remove();
    if (child.matches("article")) child.replaceChildren();
  });
  const fresh = children.filter((child) => child.parentElement !== parent);
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] || null);
  });
  items.filter(({ element, tile }) => fresh.includes(element) || fresh.includes(tile)).forEach(draw);
}

function enlarge(item) {
  opened = item;
  const first = waiting.findIndex((request) => request.item === item);
  if (first > 0) waiting.unshift(...waiting.splice(first, 1));
  arrange();
  scrollTo(0, 0);
  item.element.querySelector("h2").focus({ preventScroll: true });
  const [answer] = answersOf(item);
  say(`${the("place").textContent}, ${item.name}: ${item.failure || (answer ? textOf(item, answer) ?? answer.caption : "…")}`);
}

function shrink() {
  const { tile } = opened;
  opened = null;
  arrange();
  tile.scrollIntoView({ block: "center" });
  tile.firstElementChild.focus({ preventScroll: true });
}

const step = (by) => enlarge(items[(items.indexOf(opened) + by + items.length) % items.length]);
the("back").addEventListener("click", shrink);
for (const [name, by] of [["previous", -1], ["next", 1]]) {
  the(name).addEventListener("click", () => {
    step(by);
    the(name).focus();
  });
}

document.addEventListener("keydown", (event) => {
  if (!opened || the("viewfinder").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    // The first press frees a word that is held, as an explorer does everywhere.
    if (!the("large").querySelector("[aria-pressed=true]")) shrink();
  } else if (["ArrowLeft", "ArrowRight"].includes(event.key) && !event.target.closest("textarea, input, select, .words, .stage")) {
    event.preventDefault();
    step(event.key === "ArrowLeft" ? -1 : 1);
  }
});

the("grid").addEventListener("keydown", (event) => {
  const tiles = [...the("grid").children], at = tiles.findIndex((tile) => tile.contains(event.target));
  const second = tiles.findIndex(({ offsetTop }) => offsetTop > tiles[0].offsetTop);
  const row = second < 0 ? tiles.length : second;
  const places = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row };
  const to = tiles[{ ...places, Home: 0, End: tiles.length - 1 }[event.key]];
  if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  to.firstElementChild.focus();
});
