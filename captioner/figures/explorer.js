// The explorer of one image and its captions. A page may hold any number of explorers, each in an element with the content
// of captioner/figures/explorer.html; `legend` is where the strength and the colours are, if explorers share them. Numbers
// and maps come from captioner/figures/maps.js.
const within = (value, low, high) => Math.min(high, Math.max(low, value));

function explore(root, data, legend = root) {
  const { words, heat, share, weightAt, cellAt, levels, palette } = mapsOf(data);
  const find = (kind) => root.querySelector(`.${kind}`);
  const stage = find("stage"), map = find("map"), marks = find("marks"), statusLine = find("status");
  const play = find("play"), strength = legend.querySelector(".strength");
  const many = data.captions.length > 1;
  const [W, H] = data.size;
  root.classList.toggle("many", many);
  root.classList.toggle("tall", W < H);
  explore.made = (explore.made || 0) + 1;
  statusLine.id = `status-${explore.made}`;
  stage.setAttribute("aria-describedby", statusLine.id);
  // Several captions may exceed the screen: the image comes first and stays in view while they scroll.
  if (many) find("captions").before(find("view"));
  root.style.setProperty("--shape", String(W / H));
  // A tiny image is enlarged, but not until it blurs.
  root.style.setProperty("--largest", `${Math.max(384, 2.5 * Math.max(W, H)) * Math.min(1, W / H)}px`);
  const scale = 420 / Math.max(W, H); // sufficient for a smooth map, also of a tiny image
  map.width = Math.max(1, Math.round(W * scale));
  map.height = Math.max(1, Math.round(H * scale));

  const attends = data.captions.some(({ weights }) => weights !== null);
  const nothing = attends ? "The caption has no words." : "This model has no attention over the image.";
  const hint = matchMedia("(pointer: coarse)").matches ? data.touch_hint : data.hint;
  // The name of a caption among others: its model, or its number.
  const nameOf = (rank) => data.captions[rank].model || String(rank + 1);
  const titleOf = (rank) => data.captions[rank].model || `caption ${rank + 1}`; // in a sentence

  // One card per caption. Its words are a toolbar: Tab goes to one of them, the arrow keys to the others.
  const cards = data.captions.map((caption, rank) => {
    const own = [...words.keys()].filter((word) => words[word].rank === rank);
    const nats = caption.log_probability;
    const score = nats === null ? "" : `log-probability ${nats.toFixed(2).replace("-", "−")} nats`;
    const card = make("div", "caption");
    if (many) {
      const about = [score, caption.weights === null ? "without attention" : ""].filter(Boolean);
      const head = make("p", "head", make("b", "", nameOf(rank)), make("span", "", about.join(" · ")));
      head.setAttribute("aria-hidden", "true"); // included in the group's label
      card.append(head);
      card.setAttribute("role", "group");
      const title = caption.model ? `Caption of ${nameOf(rank)}` : `Caption ${rank + 1} of ${data.captions.length}`;
      card.setAttribute("aria-label", [title, ...about].join(", "));
    }
    if (caption.weights === null) card.append(make("p", "text", caption.text));
    else {
      const toolbar = make("div", "words");
      toolbar.setAttribute("role", "toolbar");
      toolbar.setAttribute("aria-label", "Words of the caption. Arrow keys move between words, Enter holds one.");
      own.forEach((word, t) => {
        const number = make("small", ""), button = make("button", "", make("span", "", words[word].token), number);
        button.type = "button";
        button.tabIndex = t ? -1 : 0;
        button.setAttribute("aria-pressed", "false");
        Object.assign(words[word], { button, number });
        toolbar.append(button);
      });
      card.append(toolbar);
    }
    find("captions").append(card);
    return { card, own };
  });

  // State of the interaction: the word under the pointer, the held word, the word being played, the point on the image,
  // the last used caption.
  const now = { hover: null, held: null, playing: null, point: null, current: 0 };
  // The word that is shown at rest: the one with the largest weight in the best caption.
  const rest = cards[0].own.length
    ? cards[0].own.reduce((best, word) => (words[word].peak > words[best].peak ? word : best)) : null;
  function shown() {
    if (now.playing !== null) return now.playing;
    if (now.hover !== null) return now.hover;
    if (now.held !== null) return now.held;
    const focused = words.findIndex(({ button }) => button.matches(":focus-visible"));
    if (focused >= 0 && !now.point) return focused;
    return now.point ? null : rest;
  }
  // Whether nobody has chosen what is shown; it is not announced then.
  let gentle = false; // the word being played was not requested either
  const resting = () => (now.playing === null || gentle) && now.hover === null && now.held === null
    && !now.point && !words.some(({ button }) => button.matches(":focus-visible"));

  function mark(box, kind, label, weight) {
    const element = make("div", kind);
    const [x0, y0, x1, y1] = box.map((value) => within(value, 0, 1));
    const [left, top, width, height] = [x0, y0, x1 - x0, y1 - y0].map((value) => `${100 * value}%`);
    Object.assign(element.style, { left, top, width, height });
    // The label is on the side with more room. A long label is cut, but its weight is not.
    const side = `${x0 + x1 > 1 ? "right" : ""} ${y0 > 0.85 ? "above" : ""}`;
    if (weight !== undefined) element.append(make("b", side, make("span", "", label), percent(weight)));
    marks.append(element);
    return element;
  }

  function render() {
    const word = shown(), point = now.point, power = strength.value / 100;
    stage.classList.toggle("on", word !== null);
    stage.style.setProperty("--tone", String(Math.min(1, power)));
    if (word !== null) {
      paint(map, levels(word, map.width, map.height), palette(power * (words[word].view.boxes ? data.regions : 1)));
    }
    marks.replaceChildren();
    const view = viewOf(word);
    if (view) {
      const [X0, Y0, X1, Y1] = view.seen;
      if (Math.max(X0, Y0, 1 - X1, 1 - Y1) > 0.005) mark(view.seen, "seen");
    }
    if (word !== null && view.boxes) {
      // If regions are labelled, those without a label are cells of a grid; see Heat.regions in captioner/figures/heat.py.
      const { weights } = words[word], labels = view.labels || [], labelled = labels.some(Boolean);
      const order = [...weights.keys()].filter((n) => !labelled || labels[n]).sort((a, b) => weights[b] - weights[a]);
      const most = weights[order[0]];
      order.slice(0, 4).filter((n) => weights[n] > 0 && 3 * weights[n] >= most).forEach((n, place) => {
        mark(view.boxes[n], "region", labels[n] || "", place ? undefined : most).style.opacity = String(weights[n] / most);
      });
    }
    if (point) {
      const cell = view && cellAt(view, ...point), [wide, high] = cellSize(view, 0.02);
      const [left, top] = cell
        ? [view.seen[0] + cell[1] * wide, view.seen[1] + cell[0] * high]
        : [point[0] - wide / 2, point[1] - high / 2];
      mark([left, top, left + wide, top + high], "here");
    }
    words.forEach(({ button, number, peak }, t) => {
      const lit = point ? share(t, heat(t, [point[0]], [point[1]])[0]) : 0;
      button.style.setProperty("--heat", lit.toFixed(3));
      button.classList.toggle("lit", point !== null);
      button.classList.toggle("shown", t === word);
      button.setAttribute("aria-pressed", String(t === now.held));
      number.textContent = point ? percent(weightAt(t, ...point)) : t === word ? percent(peak) : "";
    });
    cards.forEach(({ card }, rank) => card.classList.toggle("current", many && rank === now.current));
    play.textContent = now.playing !== null ? "Stop" : many ? `Play ${titleOf(now.current)}` : "Play";
    play.disabled = !cards[now.current].own.length;
    statusLine.replaceChildren(...describe(resting() ? null : word, point));
  }

  const middle = ([x0, y0, x1, y1]) => [(x0 + x1) / 2, (y0 + y1) / 2];
  function centre(view, [row, column]) {
    const [wide, high] = cellSize(view, 0);
    return [view.seen[0] + (column + 0.5) * wide, view.seen[1] + (row + 0.5) * high];
  }

  // The view whose regions or cells are marked: that of a word, or of the last used caption while pointing at the image.
  function viewOf(word) {
    if (word !== null) return words[word].view;
    const number = data.captions[now.current].view;
    return number === null ? null : data.views[number];
  }
  // Width and height of a grid cell; `other` without a grid.
  function cellSize(view, other) {
    if (!view || !view.grid) return [other, other];
    const [X0, Y0, X1, Y1] = view.seen;
    return [(X1 - X0) / view.grid[1], (Y1 - Y0) / view.grid[0]];
  }

  const from = (x, y) => `${Math.round(100 * x)} % from the left, ${Math.round(100 * y)} % from the top`;
  // The status line. The position of the point is for screen readers only; a longer line would shift the page.
  function describe(word, point) {
    if (point) {
      if (!data.views.some(({ seen }) => inside(seen, ...point))) return ["The model did not see this part of the image."];
      const most = new Map(); // captions share words, so each is listed once, with its largest weight
      words.forEach(({ token }, t) => most.set(token, Math.max(most.get(token) || 0, weightAt(t, ...point))));
      const best = [...most].sort((a, b) => b[1] - a[1]).slice(0, 3);
      const list = best.map(([token, weight]) => `${token} ${percent(weight)}`).join(", ");
      return [`Strongest here: ${list}`, make("span", "unseen", `, ${from(...point)}`)];
    }
    if (word === null) return [words.length ? hint : nothing];
    const { token, weights, peak, rank, view } = words[word];
    const n = weights.indexOf(Math.max(...weights));
    const [x, y] = view.boxes ? middle(view.boxes[n]) : centre(view, [Math.floor(n / view.grid[1]), n % view.grid[1]]);
    const at = view.labels && view.labels[n] ? ` at ${view.labels[n]},` : "";
    const subject = `“${token}”${many ? ` of ${titleOf(rank)}` : ""}`;
    return [`${subject} looked most${at} ${from(x, y)}: ${percent(peak)} of its attention`];
  }

  function halt() {
    clearInterval(halt.timer);
    now.playing = null;
  }
  function change(values) {
    halt();
    Object.assign(now, values);
    render();
  }

  // Moving the mouse does not stop playback, unless nobody started it; touching does, as does any click or key.
  const moved = (event) => event.pointerType === "mouse" && (now.playing === null || gentle);
  words.forEach(({ button, rank }, word) => {
    button.addEventListener("pointerenter", (event) => { if (moved(event)) change({ hover: word, point: null }); });
    button.addEventListener("pointerleave", (event) => { if (moved(event)) change({ hover: null }); });
    button.addEventListener("click", () => change({ held: now.held === word ? null : word, point: null }));
    button.addEventListener("focus", () => {
      cards[rank].own.forEach((other) => { words[other].button.tabIndex = other === word ? 0 : -1; });
      if (button.matches(":focus-visible")) change({ point: null, held: now.held === null ? null : word, current: rank });
    });
    button.addEventListener("blur", () => { if (now.playing === null) render(); });
  });
  cards.forEach(({ card, own }, rank) => {
    card.addEventListener("click", () => { if (own.length && now.current !== rank) change({ current: rank }); });
    card.addEventListener("keydown", (event) => {
      const at = own.findIndex((word) => words[word].button === document.activeElement);
      const next = at + 1, previous = at - 1;
      const targets = { ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous };
      const to = { ...targets, Home: 0, End: own.length - 1 }[event.key];
      if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      words[own[(to + own.length) % own.length]].button.focus();
    });
  });

  function pointAt(event) {
    const box = stage.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    change({ point: [within(x, 0, 1), within(y, 0, 1)], hover: null });
  }
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || moved(event)) pointAt(event);
  });
  stage.addEventListener("pointerdown", pointAt);
  stage.addEventListener("pointerleave", (event) => { if (moved(event)) change({ point: null }); });
  stage.addEventListener("blur", () => change({ point: null }));
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const view = viewOf(null), [wide, high] = cellSize(view, 0.05), [X0, Y0, X1, Y1] = view ? view.seen : [0, 0, 1, 1];
    // From the centre of the cell that contains the point, so that each step is one cell.
    const cell = now.point && view && cellAt(view, ...now.point);
    const first = view && view.grid ? centre(view, view.grid.map((count) => Math.floor(count / 2))) : [0.5, 0.5];
    const start = cell ? centre(view, cell) : now.point || first;
    const [x, y] = now.point ? [start[0] + step[0] * wide, start[1] + step[1] * high] : start;
    change({ point: [within(x, X0 + wide / 2, X1 - wide / 2), within(y, Y0 + high / 2, Y1 - high / 2)], hover: null });
  });
  // Listen to what is outside the explorer until that is removed from the page.
  function listen(target, kind, act) {
    target.addEventListener(kind, function heard(event) {
      if (root.isConnected) act(event);
      else target.removeEventListener(kind, heard);
    });
  }
  // Escape works wherever the focus is.
  listen(document, "keydown", (event) => {
    if (event.key === "Escape") change({ held: null, point: null, hover: null });
  });

  function strengthen() {
    const text = `${strength.value} %`;
    legend.querySelector(".strength-value").textContent = text;
    strength.setAttribute("aria-valuetext", strength.value === "0" ? "0 %, the plain image" : text);
    paint(legend.querySelector(".ramp"), Uint8Array.from({ length: 256 }, (_, i) => i), palette(strength.value / 100));
  }
  listen(strength, "input", () => {
    strengthen();
    render();
  });

  // Play the current caption from its first word; `unasked`, until the pointer moves.
  function playOnce(unasked) {
    gentle = unasked;
    const { own } = cards[now.current];
    change({ hover: null, held: null, point: null });
    if (!own.length) return;
    let t = 0;
    now.playing = own[t];
    render();
    halt.timer = setInterval(() => {
      if (root.isConnected && ++t < own.length) now.playing = own[t];
      else halt();
      render();
    }, data.milliseconds);
  }
  play.addEventListener("click", () => {
    if (now.playing === null) playOnce(false);
    else change({ hover: null, held: null, point: null });
  });

  strengthen();
  render();
  find("controls").hidden = false; // hidden without a script, where they would have no effect
  return { words, heat, weightAt, map, playOnce };
}
