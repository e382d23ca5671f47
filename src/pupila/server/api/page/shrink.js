// Makes a smaller copy of a picture that is too large, or takes too long, to be sent whole.
//
// All others are sent whole, however large: a smaller copy does not get the same answer. Of 240 photos, in a real
// Chromium with the bundled model, copies of 1024 pixels got another class 4 times, another percentage 104 times, and
// moved the confidence by up to 0.08; copies of 256 pixels 6 times, 150 times and 0.16 (benchmarks/serving/shrink.py).
// Where a copy was sent, as there would be no answer at all without it, the page says so.

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
