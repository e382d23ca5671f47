// Paints a class activation map over a picture. Knows nothing of the page.

// What the model passed over sinks into the dark, what it looked at glows: told apart by lightness, not by hue alone.
const COLD = [8, 14, 34, 200];
const HOT = [255, 176, 46, 120];

/** Paint a map {height, width, values in 0 to 1} onto a canvas that has the picture's proportions. */
export function paint(canvas, map, ratio) {
  const cells = new ImageData(map.width, map.height);
  map.values.flat().forEach((value, index) => {
    for (let channel = 0; channel < 4; channel++) {
      cells.data[4 * index + channel] = COLD[channel] + value * (HOT[channel] - COLD[channel]);
    }
  });
  const small = new OffscreenCanvas(map.width, map.height);
  small.getContext("2d").putImageData(cells, 0, 0);
  canvas.width = Math.round(256 * Math.min(1, ratio));
  canvas.height = Math.round(256 * Math.min(1, 1 / ratio));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Return whether a map says anything: one that is the same all over does not. */
export function tells(map) {
  return Boolean(map) && map.values.some((row) => row.some((value) => value !== map.values[0][0]));
}

/** Return where the map is highest, for those who cannot see it: top-left ... bottom-right, or middle. */
export function place(map) {
  const flat = map.values.flat();
  const at = flat.indexOf(Math.max(...flat));
  const third = (position, size) => Math.min(2, Math.floor((3 * (position + 0.5)) / size));
  const row = ["top", "middle", "bottom"][third(Math.floor(at / map.width), map.height)];
  const column = ["left", "middle", "right"][third(at % map.width, map.width)];
  return row === column ? "middle" : `${row}-${column}`;
}
