// Two toolbars of words for each pair, and the matrix; pointing at or focusing a word highlights the other row.
const data = JSON.parse(document.getElementById("data").textContent);

data.forEach(({ written, read, weights }) => {
  const sides = [read, written].map((words, side) => {
    const bar = make("div", "words");
    bar.setAttribute("role", "toolbar");
    bar.setAttribute("aria-label", `${side ? "Words written" : "Words read"}. Arrow keys move between them.`);
    const buttons = words.map((word, place) => {
      const number = make("small", ""), button = make("button", "", word, number);
      button.type = "button";
      button.tabIndex = place ? -1 : 0;
      button.setAttribute("aria-pressed", "false");
      bar.append(button);
      return { button, number };
    });
    return { bar, buttons };
  });
  const top = make("tr", "", make("th", ""), ...read.map((word) => make("th", "", make("span", "", word))));
  const rows = weights.map((row, t) => make("tr", "", make("th", "", written[t]), ...row.map((weight, s) => {
    const cell = make("td", "");
    cell.style.setProperty("--weight", weight);
    cell.title = `${written[t]} → ${read[s]}: ${percent(weight)}`;
    return cell;
  })));
  const table = make("table", "", make("thead", "", top), make("tbody", "", ...rows));

  // [side, place] of the word held by a click.
  let held = null;
  const show = (chosen) => {
    const [side, place] = chosen ?? held ?? [null, null];
    sides.forEach(({ buttons }, other) => buttons.forEach(({ button, number }, at) => {
      const lit = side !== null && other !== side;
      const weight = !lit ? 0 : side ? weights[place][at] : weights[at][place];
      button.style.setProperty("--heat", weight);
      button.classList.toggle("lit", lit && weight >= 0.3);
      button.classList.toggle("shown", other === side && at === place);
      button.setAttribute("aria-pressed", String(held !== null && held[0] === other && held[1] === at));
      number.textContent = lit && weight >= 0.005 ? percent(weight) : "";
    }));
    rows.forEach((row, t) => {
      row.classList.toggle("shown", side === 1 && t === place);
      [...row.children].forEach((cell, s) => cell.classList.toggle("column", side === 0 && s > 0 && s - 1 === place));
      row.firstElementChild.classList.toggle("shown", side === 1 && t === place);
    });
    [...top.children].forEach((cell, s) => cell.classList.toggle("shown", side === 0 && s - 1 === place));
  };
  sides.forEach(({ bar, buttons }, side) => buttons.forEach(({ button }, place) => {
    const chosen = [side, place];
    button.addEventListener("pointerenter", () => show(chosen));
    button.addEventListener("pointerleave", () => show(null));
    button.addEventListener("focus", () => show(chosen));
    button.addEventListener("blur", () => show(null));
    button.addEventListener("click", () => {
      held = held && held[0] === side && held[1] === place ? null : chosen;
      show(chosen);
    });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -place, End: buttons.length - 1 - place }[event.key];
      const next = step === undefined ? undefined : buttons[place + step];
      if (event.key === "Escape") { held = null; show(null); }
      if (!next) return;
      event.preventDefault();
      button.tabIndex = -1;
      next.button.tabIndex = 0;
      next.button.focus();
    });
  }));
  table.addEventListener("pointerover", ({ target }) => {
    const cell = target.closest("td, th"), row = rows.indexOf(target.closest("tr"));
    const column = cell ? [...cell.parentElement.children].indexOf(cell) - 1 : -1;
    if (row >= 0) show([1, row]);
    else if (column >= 0) show([0, column]);
  });
  table.addEventListener("pointerleave", () => show(null));
  document.getElementById("pairs").append(make("section", "pair", make("h2", "", "read"), sides[0].bar,
    make("h2", "", "written"), sides[1].bar, make("div", "scroll", table)));
});
document.getElementById("hint").hidden = false;
