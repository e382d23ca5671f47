// Makes a smaller copy of a picture that is too large, or takes too long, to be sent whole.

const LONGEST = 1024; // pixels: far more than any model here looks at

/** Return a JPEG of at most 1024 pixels a side, upright, on white, or null if this browser cannot read the file. */
export async function smaller(file, longest = LONGEST) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, longest / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
    return blob && new File([blob], file.name, { type: blob.type });
  } catch {
    return null;
  }
}
