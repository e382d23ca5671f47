// Shows one picture as large as the window, with and without where the model looked.

import { h } from "./dom.js";
import { t } from "./i18n.js";

/** Open a picture; `map` is the canvas that shows where the model looked, or null. */
export async function enlarge(picture, map, name) {
  const image = h("img", { src: picture.src, alt: name });
  const over = map && h("canvas", { width: map.width, height: map.height, hidden: true, "aria-hidden": "true" });
  over?.getContext("2d").drawImage(map, 0, 0);
  const look = map && h("button", { type: "button", "aria-pressed": "false" }, t("look"));
  look?.addEventListener("click", () => {
    over.hidden = !over.hidden;
    look.setAttribute("aria-pressed", String(!over.hidden));
  });
  const close = h("button", { type: "button", className: "strong" }, t("zoom.close"));
  const stage = h("div", { className: "zoomed" }, image, over);
  stage.classList.toggle("tiny", Math.max(picture.naturalWidth, picture.naturalHeight) <= 100);
  stage.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
  const dialog = h("dialog", { className: "zoom", "aria-label": name }, stage, h("div", { className: "ways" }, look, close));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
}
