// Reads an image file as upright sRGB on white, with errors that name the file and what to do.
const LONGEST = 16384; // pixels of a side that a canvas holds

const refuse = (name, reason) => { throw Object.assign(new Error(`${name}: ${reason}`), { final: true }); };

async function decoded(file, limits) {
  const { name } = file;
  if (!file.size) refuse(name, "the file is empty (0 bytes); get a fresh copy of it");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", premultiplyAlpha: "none" });
  } catch {
    const known = file.type.startsWith("image/") || /\.(hei[cf]|tiff?|jp2|jxl|dng|raw|cr2|nef|arw)$/i.test(name);
    refuse(name, known
      ? "it is damaged, or of a kind that this browser does not read; save it as JPEG or PNG"
      : "not an image that this browser reads; give a JPEG, PNG, WebP, GIF or BMP file");
  }
  const { width, height } = bitmap;
  if (width * height > limits.pixels || Math.max(width, height) > LONGEST) {
    bitmap.close();
    refuse(name, `it has ${width} x ${height} pixels, and this page takes up to ${limits.pixels / 1e6} million and `
      + `${LONGEST} on a side; send a smaller one`);
  }
  return bitmap;
}

// Rows of a bitmap as RGB bytes, for squareOf(). A canvas holds only a piece: phones limit its pixels.
function pictureOf(bitmap) {
  const { width, height } = bitmap;
  const rows = (y, count) => {
    const context = new OffscreenCanvas(width, count).getContext("2d", { alpha: false, willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -y);
    const { data } = context.getImageData(0, 0, width, count), out = new Uint8Array(3 * width * count);
    for (let from = 0, to = 0; to < out.length; from += 4, to += 3) {
      out[to] = data[from];
      out[to + 1] = data[from + 1];
      out[to + 2] = data[from + 2];
    }
    return out;
  };
  return { width, height, rows };
}
