// The API key, where a server wants one: the question for it, and the button that asks anew. Where it is kept, api.js knows.

import { key } from "./api.js";
import { byId, h } from "./dom.js";
import { t } from "./i18n.js";

let asking = null;

/** Let the page's key button ask for another key, where one is wanted; `changed` is called when there is one. */
export function keyButton(changed) {
  byId("key-button").hidden = !key.value;
  byId("key-button").addEventListener("click", async () => (await askForKey("key.text")) && changed());
}

/** Ask for an API key; returns whether one was given. Asked twice, the question is still one. */
export function askForKey(why = key.value ? "key.wrong" : "key.text") {
  byId("key-button").hidden = false;
  asking ??= ask(why).finally(() => (asking = null));
  return asking;
}

async function ask(why) {
  const input = h("input", { id: "key-input", type: "password", autocomplete: "off", required: true });
  const use = h("button", { type: "submit", className: "strong" }, t("key.use"));
  const cancel = h("button", { type: "button" }, t("key.cancel"));
  const title = h("h2", { id: "key-title" }, t("key.title"));
  const label = h("label", { for: "key-input" }, t("key.label"));
  const form = h("form", {}, title, h("p", { id: "key-text" }, t(why)), label, input, h("div", { className: "ways" }, use, cancel));
  const dialog = h("dialog", { id: "key-dialog", "aria-labelledby": "key-title" }, form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("use");
  });
  cancel.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  if (dialog.returnValue !== "use") return false;
  key.value = input.value.trim();
  return true;
}
