// The model's card: what it knows, how well it does and on what data, and where its limits are.

import { h } from "./dom.js";
import { className, megabytes, number, percent, t } from "./i18n.js";

const SHOWN = 60; // classes; the rest unfolds

/** Return the elements that show a card, as /card gives it. */
export function cardOf(card) {
  return [
    h("p", { className: "model" }, h("span", { className: "model-name" }, card.name), " ", h("code", { title: t("card.version") }, card.version)),
    h("h3", {}, t("card.knows", { n: card.classes.length })),
    classes(card.classes),
    h("h3", {}, t("card.how_well")),
    ...accuracy(card),
    h("h3", {}, t("card.limits")),
    h("ul", { className: "limits" }, ...limits(card).map((text) => h("li", {}, text))),
  ];
}

function classes(names) {
  const chip = (name) => h("li", {}, className(name));
  const list = h("ul", { className: "chips" }, ...names.slice(0, SHOWN).map(chip));
  if (names.length <= SHOWN) return list;
  const more = h("button", { type: "button", className: "quiet" }, t("card.more", { n: names.length - SHOWN }));
  more.addEventListener("click", () => {
    more.parentElement.remove();
    list.append(...names.slice(SHOWN).map(chip));
  });
  list.append(h("li", { className: "more" }, more));
  return list;
}

function accuracy({ accuracy: right, interval, pictures, split, data, calibration_error: off }) {
  if (typeof right !== "number") return [h("p", { className: "soft" }, t("card.unmeasured"))];
  const found = [h("p", { className: "figure" }, h("strong", {}, percent(right, 1)), " ", t("card.right"))];
  if (interval) {
    const scale = h("span", { className: "scale", "aria-hidden": "true" }, h("span", { className: "range" }), h("span", { className: "point" }));
    for (const [name, value] of [["--low", interval[0]], ["--high", interval[1]], ["--at", right]]) scale.style.setProperty(name, value);
    found.push(scale, h("p", { className: "soft" }, t("card.interval", { low: percent(interval[0], 1), high: percent(interval[1], 1) })));
  }
  if (pictures) {
    const key = { validation: "card.on_validation", test: "card.on_test" }[split] ?? "card.on_other";
    found.push(h("p", { className: "soft" }, t(key, { n: pictures, source: data.source ?? "?" })));
  }
  if (typeof off === "number") found.push(h("p", { className: "soft" }, t("card.calibration", { off: number(100 * off) })));
  return found;
}

function limits(card) {
  const size = card.input_size;
  return [
    t("limit.classes"),
    t(card.knows_unknown ? "limit.unknown" : "limit.no_unknown"),
    t("limit.size", { size }),
    t("limit.server", { bytes: megabytes(card.limits.max_part_bytes), pixels: Math.round(card.limits.max_pixels / 1e6) }),
  ];
}
