// Right or wrong? Lets a person say so, and which class would have been right. Shown where the server keeps answers.

import { Problem, sendFeedback } from "./api.js";
import { h } from "./dom.js";
import { className, reason, t } from "./i18n.js";
import { askForKey } from "./key.js";

const NONE = "\u0000none";

/** Return the element that asks about an item's answer; `known` returns the classes there are to choose from now.
 * What was said already is shown, and can be changed. */
export function feedback(item, known) {
  const box = h("div", { className: "feedback", role: "group", "aria-label": t("feedback.label", { name: item.file.name }) });
  const show = (...children) => box.replaceChildren(...children);
  const predicted = item.answer.unknown ? null : item.answer.category;

  const button = (name, text, action) => {
    const made = h("button", { type: "button", className: `small ${name}` }, text);
    made.addEventListener("click", action);
    return made;
  };
  const question = () => {
    const none = item.answer.unknown; // "right" and "wrong" would be riddles there
    const right = button("right", t(none ? "feedback.right_none" : "feedback.right"), () => say(predicted));
    show(right, button("wrong", t(none ? "feedback.is" : "feedback.wrong"), () => pick()));
  };
  const pick = () => {
    const choices = known().map((name) => h("option", { value: name }, className(name)));
    const select = h("select", { "aria-label": t("feedback.which") }, h("option", { value: "", disabled: true, selected: true }, t("feedback.which")), ...choices, h("option", { value: NONE }, t("unknown")));
    const use = button("use", t("feedback.save"), () => say(select.value === NONE ? null : select.value));
    use.disabled = true;
    select.addEventListener("change", () => (use.disabled = !select.value));
    show(select, use, button("back", t("feedback.back"), () => (item.said === undefined ? question() : thanks())));
    select.focus();
  };
  const say = async (category) => {
    show(h("p", { className: "soft", role: "status" }, t("feedback.saving")));
    try {
      await sendFeedback({ request_id: item.requestId, picture: item.index }, category);
      item.said = category;
      thanks().focus();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.kind === "key" && (await askForKey())) return say(category);
      const again = button("again", t("retry"), () => say(category));
      show(h("p", { className: "soft", role: "status" }, reason("feedback", problem)), again);
      again.focus();
    }
  };
  const thanks = () => {
    const name = item.said === null ? t("unknown") : className(item.said);
    const change = button("change", t("feedback.change"), () => pick());
    show(h("p", { className: "soft", role: "status" }, t("feedback.thanks", { name })), change);
    return change;
  };
  if (item.said === undefined) question();
  else thanks();
  return box;
}
