// Adds images: from the file dialog, by drag and drop, from the clipboard, from the camera, and the examples.
the("terms").textContent = terms();
the("terms").title = served.read.join(", ");
the("xmp").hidden = the("txt").hidden = !served.sidecars;
served.models.forEach(([name, title]) => {
  the("model").append(new Option(title, name));
  the("rival").append(new Option(title, name));
});
[ENGLISH, ...served.languages].forEach((code) => the("language").append(new Option(languageName(code), code)));
the("model").closest("label").hidden = the("rival").closest("label").hidden = served.models.length < 2;
the("language").closest("label").hidden = !served.languages.length;
the("settings").hidden = served.models.length < 2 && !served.languages.length;

function add(files) {
  const added = [...files];
  complain();
  items.unshift(...added.map((file) => {
    const item = { file, name: file.name || "image", answers: new Map(), asked: new Set(), edits: new Map(), failure: null };
    Object.assign(item, { element: make("article", "result"), tile: makeTile(item), thumbnail: URL.createObjectURL(file) });
    if (file.size > 1e6 * served.megabytes) {
      item.refused = true;
      item.failure = `This image has ${(file.size / 1e6).toFixed(1)} MB, and this page takes up to `
        + `${served.megabytes.toFixed(0)} MB; send a smaller one.`;
    }
    return item;
  }));
  arrange();
  items.slice(0, added.length).forEach(ask);
  if (added.length) say(added.length === 1 ? `Captioning ${items[0].name}` : `Captioning ${added.length} images`);
  start();
}

function remove(item) {
  const at = items.indexOf(item), next = items[at + 1] || items[at - 1], wasOpen = item === opened;
  items.splice(at, 1);
  release(item);
  if (wasOpen) opened = next;
  arrange();
  say(`Removed ${item.name}`);
  (next ? next.element.querySelector(wasOpen ? "h2" : ".remove") : the("choose")).focus();
}

the("clear").addEventListener("click", () => {
  items.splice(0).forEach(release);
  unsaved = false;
  arrange();
  say("Removed all images");
  the("choose").focus();
});
for (const name of ["model", "rival", "language"]) {
  the(name).addEventListener("change", () => {
    complain();
    items.forEach(ask);
    start();
    translate();
  });
}
// Not by its address, in which the token is.
the("skip").addEventListener("click", (event) => {
  event.preventDefault();
  the("results").focus();
});

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
arrange();
