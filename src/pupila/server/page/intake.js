// How pictures come in: chosen, photographed, dropped anywhere, pasted. Knows nothing of what happens to them.

import { byId } from "./dom.js";

const MOST_FILES = 5000; // out of one drop of folders

/** Hand every list of files that comes in to `take`. */
export function intake(take) {
  for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
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
    take(entries.some((entry) => entry?.isDirectory) ? await walk(entries) : plain);
  });
}

/** Return the pictures of folders that were dropped, in the order of their names. A file whose type the browser does not
 * know may be one, too. */
async function walk(entries) {
  const files = [];
  const open = entries.filter(Boolean).reverse();
  while (open.length && files.length < MOST_FILES) {
    const entry = open.pop();
    if (entry.name.startsWith(".")) continue;
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (!file.type || file.type.startsWith("image/")) files.push(file);
    } else open.push(...(await list(entry)).sort((a, b) => (a.name < b.name ? 1 : -1)));
  }
  return files;
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
