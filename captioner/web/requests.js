// Captions, figures, translations and sidecars from captioner serve; browser/page.js takes the place of this script on the
// page without a server.
const TRIES = 20;

// The server's token, if it has one, comes in the address after #, which browsers do not send.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token === null ? {} : { authorization: `Bearer ${token}` };
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Post a body; if the server is busy, wait for the seconds in Retry-After and try again.
async function post(address, body, more = {}) {
  for (let left = TRIES; ; left--) {
    let answer;
    try {
      answer = await fetch(address, { method: "POST", body, headers: { ...headers, ...more } });
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

function send(path, file, parameters) {
  const form = new FormData();
  form.append("image", file, file.name || "image");
  return post(`${path}?${new URLSearchParams(parameters)}`, form);
}

const postJson = (path, value) => post(path, JSON.stringify(value), { "content-type": "application/json" });

function terms() {
  const others = served.read.length - 6;
  return `${served.read.slice(0, 6).join(", ")}${others > 0 ? ` and ${others} more kinds` : ""}, `
    + `up to ${served.megabytes.toFixed(0)} MB each.`;
}
const captionOf = async (item, model) => (await send("caption", item.file, { model, figure: true })).json();
const figureOf = async (item, model, format) => (await send("figure", item.file, { model, format })).blob();
const translationsOf = async (language, texts) => (await (await postJson("translate", { language, texts })).json()).texts;
const sidecarsOf = async (format, photos) => (await postJson("sidecars", { format, photos })).blob();
