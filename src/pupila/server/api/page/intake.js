// How pictures come in: chosen, photographed, dropped anywhere, pasted. Knows nothing of what happens to them.

import { canFilm, photograph } from "./camera.js";
import { byId } from "./dom.js";

const MOST_FILES = 5000; // out of one drop of folders

/** Hand every list of files that comes in to `take`; of a drop of folders also what was left out, as `walk` says it. */
export function intake(take) {
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("photograph").addEventListener("click", async () => {
    if (!canFilm()) return byId("camera").click();
    const file = await photograph();
    if (file) take([file]);
  });
  byId("photograph").hidden = matchMedia("(hover: hover) and (pointer: fine)").matches && !canFilm();
  for (const input of ["files", "camera"]) {
    byId(input).addEventListener("change", ({ target }) => {
      take([...target.files]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
  dropping(take);
}

function dropping(take) {
  let depth = 0; // dragenter and dragleave come for every element that is crossed
  const show = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const brings = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => brings(event) && show(1));
  addEventListener("dragleave", (event) => brings(event) && show(-1));
  addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", async (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    show(0);
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()); // before the first await
    const plain = [...event.dataTransfer.files];
    if (!entries.some((entry) => entry?.isDirectory)) return take(plain);
    const { files, ...leftOut } = await walk(entries);
    take(files, leftOut);
  });
}

/** Return the pictures of folders that were dropped, in the order of their names: {files, unread, cut}. How many files and
 * folders could not be read, and after how many pictures it ended, 0 if it did not. A file whose type the browser does not
 * know may be a picture, too. */
async function walk(entries) {
  const files = [];
  let unread = 0;
  const open = entries.filter(Boolean).reverse();
  while (open.length && files.length < MOST_FILES) {
    const entry = open.pop();
    if (entry.name.startsWith(".")) continue;
    try {
      if (entry.isDirectory) for (const inner of (await list(entry)).sort(backwards)) open.push(inner);
      else {
        const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
        if (!file.type || file.type.startsWith("image/")) files.push(file);
      }
    } catch {
      unread += 1; // it alone: the others are pictures all the same
    }
  }
  return { files, unread, cut: open.length ? files.length : 0 };
}

function backwards(one, other) {
  return one.name < other.name ? 1 : -1;
}

async function list(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found; // a reader hands out a hundred at a time
    found.push(...some);
  }
}
