// Copies and saves captions and figures.
let unsaved = false; // edits that were not downloaded
addEventListener("beforeunload", (event) => { if (unsaved && items.length) event.preventDefault(); });

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
  complain();
  for (const { model } of answers) {
    try {
      const figure = await figureOf(item, model, format);
      const stem = item.name.replace(/\.[^.]*$/, "") + (answers.length > 1 ? `.${model}` : "");
      save(figure, `${stem}.attention.${format}`);
    } catch (error) {
      complain(error.message);
    }
  }
}

function save(blob, name) {
  const link = make("a", "");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`Saved ${name}`);
}

// The shown captions, in their order; one that is not translated yet is in English.
function rows() {
  return items.flatMap((item) => answersOf(item).map((answer) => {
    const text = textOf(item, answer), code = text === null ? ENGLISH : language();
    const { figure, ...rest } = answer;
    return { ...rest, image: item.name, caption: text ?? english(item, answer), language: code, edited: isEdited(item, answer, code) };
  }));
}

// A CSV field; a quote keeps spreadsheets from running it as a formula, as in captioner/data/rows.py.
function cell(value) {
  const text = typeof value === "string" && /^'*[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
const COLUMNS = ["image", "caption", "language", "edited", "model", "log_probability"];
const csv = () => [COLUMNS, ...rows().map((row) => COLUMNS.map((column) => cell(row[column])))]
  .map((line) => `${line.join(",")}\n`).join("");

// What sidecars are made of: the captions of the first model, a translation before the English one.
function photos() {
  return items.map((item) => [item, answersOf(item)[0]]).filter(([, answer]) => answer).map(([item, answer]) => {
    const codes = [...new Set([language(), ENGLISH])].filter((code) => textOf(item, answer, code));
    return {
      name: item.name.replace(/[\\/\0]/g, "_").slice(-255),
      captions: Object.fromEntries(codes.map((code) => [code, textOf(item, answer, code)])),
      edited: codes.filter((code) => isEdited(item, answer, code)),
    };
  }).filter(({ captions }) => Object.keys(captions).length);
}

const downloads = {
  csv: () => new Blob([csv()], { type: "text/csv" }),
  json: () => new Blob([`${JSON.stringify(rows(), null, 2)}\n`], { type: "application/json" }),
  xmp: () => sidecarsOf("xmp", photos()),
  txt: () => sidecarsOf("txt", photos()),
};
Object.entries(downloads).forEach(([name, content]) => the(name).addEventListener("click", async () => {
  complain();
  try {
    save(await content(), name === "csv" || name === "json" ? `captions.${name}` : `captions.${name}.zip`);
    unsaved = false;
  } catch (error) {
    complain(error.message);
  }
}));
