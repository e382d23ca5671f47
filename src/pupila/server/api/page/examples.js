// Pictures to try, where the model knows what is on them.

import { byId, h } from "./dom.js";
import { className, t } from "./i18n.js";

const EXAMPLES = ["horse", "dog", "frog", "ship", "airplane"];

/** Offer the examples that show one of these classes; `take` gets the files of the one that is chosen. */
export function offerExamples(classes, take) {
  const shown = EXAMPLES.filter((name) => classes.includes(name));
  byId("examples").hidden = shown.length === 0;
  byId("example-list").replaceChildren(...shown.map((name) => h("li", {}, example(name, take))));
}

function example(name, take) {
  const url = `page/example-${name}.webp`;
  const button = h("button", { type: "button", "aria-label": t("examples.try", { name: className(name) }) }, h("img", { src: url, alt: "", width: 96, height: 72 }));
  button.addEventListener("click", async () => {
    const picture = await (await fetch(url)).blob();
    take([new File([picture], `${name}.webp`, { type: "image/webp" })]);
  });
  return button;
}
