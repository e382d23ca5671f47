// One picture and what is said of it. Knows the page's elements, but not where answers come from.

import { h } from "./dom.js";
import { feedback } from "./feedback.js";
import { className, percent, reason, t } from "./i18n.js";
import { paint, place, tells } from "./overlay.js";
import { enlarge } from "./zoom.js";

const TINY = 100; // pixels a side up to which pixels are shown as they are, not blurred

/** Make the tile of an item; `actions` are remove(item), retry(item) and card(), which returns the model's card. */
export class Tile {
  constructor(item, actions) {
    Object.assign(this, { item, actions });
    this.url = URL.createObjectURL(item.file);
    const name = `tile-${item.id}`;
    this.picture = h("img", { alt: "", decoding: "async", loading: "lazy", draggable: false });
    this.picture.addEventListener("load", () => this.#loaded());
    this.picture.addEventListener("error", () => this.frame.classList.add("blind"));
    this.map = h("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    this.frame = h("button", { type: "button", className: "frame", disabled: true, "aria-labelledby": `${name}-look ${name}` }, this.picture, this.map, h("span", { className: "eye-label", "aria-hidden": "true" }, t("look.short")));
    this.frame.addEventListener("click", () => this.#toggle());
    this.look = h("span", { className: "unseen", id: `${name}-look` }, t("picture"));
    this.body = h("div", { className: "body" });
    const label = t("remove", { name: item.file.name });
    const remove = h("button", { type: "button", className: "remove", title: label, "aria-label": label }, "×");
    remove.addEventListener("click", () => actions.remove(item));
    const larger = t("zoom", { name: item.file.name });
    const zoom = h("button", { type: "button", className: "enlarge", title: larger, "aria-label": larger }, "⤢");
    zoom.addEventListener("click", () => enlarge(this.picture, this.frame.disabled ? null : this.map, item.file.name || t("unnamed")));
    this.title = h("p", { className: "file", id: name, title: item.file.name }, item.file.name || t("unnamed"));
    this.element = h("li", { className: "tile" }, this.frame, this.look, h("div", { className: "words" }, this.title, this.body), zoom, remove);
    this.picture.src = this.url;
    this.update();
  }

  /** Show the item as it is now. */
  update() {
    const { item } = this;
    this.element.dataset.state = item.state;
    const says = { answered: () => this.#answer(), refused: () => this.#problem(), failed: () => this.#problem() };
    const body = says[item.state]?.() ?? [h("p", { className: "soft" }, t(item.state))];
    this.body.replaceChildren(...body);
  }

  /** Whether a person is saying something here: an update would take it out of their hands. */
  get inUse() {
    return this.body.contains(document.activeElement) || this.body.querySelector("select, [role=status]") !== null;
  }

  /** Let go of the picture's memory. */
  free() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }

  #answer() {
    const { answer } = this.item;
    this.element.dataset.category = answer.category;
    this.element.classList.toggle("unknown", Boolean(answer.unknown));
    if (this.picture.complete) this.#loaded();
    const best = h("h3", {}, h("span", { className: "name" }, className(answer.category)), " ", h("span", { className: "value" }, percent(answer.confidence)));
    const others = answer.unknown ? answer.top : answer.top.slice(1);
    return [
      ...(answer.unknown ? [h("h3", {}, t("unknown")), h("p", { className: "soft" }, t("nearest"))] : [best, track(answer)]),
      h("ol", { className: "bars", "aria-label": t(answer.unknown ? "nearest.list" : "next.list") }, ...others.map(bar)),
      this.item.copy && h("p", { className: "soft" }, t("copy")),
      this.actions.card()?.feedback && this.#feedback(),
    ].filter(Boolean);
  }

  #feedback() {
    let { classes } = this.actions.card();
    return feedback(this.item, () => (classes = this.actions.card()?.classes ?? classes));
  }

  #problem() {
    const { problem, state } = this.item;
    const retry = h("button", { type: "button" }, t("retry"));
    retry.addEventListener("click", () => this.actions.retry(this.item));
    const why = problem.message?.includes("HEIC") ? t("error.heic") : reason("error", problem);
    return [h("h3", {}, t(state)), h("p", {}, why), state === "failed" && retry].filter(Boolean);
  }

  #loaded() {
    const { naturalWidth: width, naturalHeight: height } = this.picture;
    if (!width) return;
    this.element.classList.toggle("tiny", Math.max(width, height) <= TINY);
    const map = this.item.answer?.explanation;
    if (this.item.state !== "answered" || !tells(map) || !this.frame.disabled) return;
    paint(this.map, map, width / height);
    this.frame.disabled = false;
    this.frame.setAttribute("aria-pressed", "false");
    this.frame.title = t("look");
    this.look.textContent = t("look.where", { place: t(`place.${place(map)}`) });
  }

  #toggle() {
    const pressed = this.frame.getAttribute("aria-pressed") !== "true";
    this.frame.setAttribute("aria-pressed", String(pressed));
  }
}

/** Return one class with its confidence, as words, and as a bar for the eye. */
function bar(choice) {
  const name = h("span", { className: "name" }, className(choice.category));
  return h("li", {}, name, " ", h("span", { className: "value" }, percent(choice.confidence)), track(choice));
}

function track({ confidence }) {
  const fill = h("span", { className: "fill" });
  fill.style.setProperty("--part", confidence);
  return h("span", { className: "track", "aria-hidden": "true" }, fill);
}
