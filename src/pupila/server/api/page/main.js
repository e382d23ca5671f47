// Puts the page together: pictures come in, wait in the queue, and get their tiles; the card and the state are shown.

import { Problem, card as askCard } from "./api.js";
import { cardOf } from "./card.js";
import { byId, h, pause } from "./dom.js";
import { chooseLanguage, className, percent, t, translate } from "./i18n.js";
import { offerExamples } from "./examples.js";
import { intake } from "./intake.js";
import { askForKey, keyButton } from "./key.js";
import { Queue } from "./queue.js";
import { saveAnswers } from "./save.js";
import { Tile } from "./tile.js";

const tiles = new Map(); // by item
let card = null;

if (matchMedia("(hover: none)").matches) byId("hint").dataset.t = "hint.touch";
translate(document);
const queue = new Queue({ prepare, askForKey, onItem: showItem, onState: showState });
keyButton(() => {
  card = null;
  showCard();
  queue.start();
});
function take(files, leftOut) {
  byId("left-out").textContent = leftOut ? whatWasLeftOut(files, leftOut) : "";
  const before = tiles.size;
  const added = queue.add(files);
  for (const item of added) {
    tiles.set(item, new Tile(item, { remove, retry: (one) => queue.retry(one), card: () => card }));
    byId("tiles").append(tiles.get(item).element);
  }
  showState();
  if (before && added.length) tiles.get(added[0]).element.scrollIntoView({ block: "nearest" });
}
intake(take);
byId("save").addEventListener("click", () => saveAnswers(queue.items));
chooseLanguage(byId("language"), () => !queue.items.length || confirm(t("language.reload")));
byId("clear").addEventListener("click", () => {
  queue.clear();
  for (const tile of tiles.values()) tile.free();
  tiles.clear();
  showState();
  byId("choose").focus();
});
showCard();

function whatWasLeftOut(files, { unread, cut }) {
  const said = [unread && t("left_out.unread", { n: unread }), cut && t("left_out.cut", { n: cut }), !files.length && t("left_out.all")];
  return said.filter(Boolean).join(" ");
}

function showItem(item) {
  tiles.get(item)?.update();
  if (item.model && card && item.model !== card.version) renew();
}

/** A new model has taken over: show its card, and what it offers on the tiles that wait for a word. */
async function renew() {
  card = null;
  await showCard();
  for (const tile of tiles.values()) if (tile.item.said === undefined && !tile.inUse) tile.update();
}

function remove(item) {
  const { element } = tiles.get(item);
  const next = element.nextElementSibling ?? element.previousElementSibling;
  queue.remove(item);
  tiles.get(item).free();
  tiles.delete(item);
  showState();
  (next?.querySelector(".remove") ?? byId("choose")).focus();
}

// The model's card

/** Return the server's limits, out of the card, which is asked for again whenever it may have changed. */
async function prepare() {
  if (!card) {
    card = await askCard();
    byId("card-body").replaceChildren(...cardOf(card));
    offerExamples(card.classes, take);
    byId("kept").textContent = t(card.feedback ? "privacy.kept" : "privacy.kept_not");
    byId("review").hidden = !card.feedback;
  }
  return card.limits;
}

async function showCard() {
  for (;;) {
    try {
      return await prepare();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.kind === "key" && !(await askForKey())) return null;
      if (!card && !["key", "gone", "busy"].includes(problem.kind)) {
        byId("card-body").replaceChildren(h("p", { className: "soft", role: "status" }, refusal(problem)));
      }
      if (problem.kind !== "key") await pause(3, "online");
    }
  }
}

/** Say why the server does not tell what it serves: in its own words, or, where a proxy answers for it, with the status. */
function refusal({ code, status, message }) {
  return t("state.refused", { why: status && !code ? `HTTP ${status}` : message });
}

// How far it is

function showState() {
  const { state } = queue;
  if (state === "gone") card = null; // who knows what comes back
  const all = queue.items.length;
  const open = queue.count("waiting", "sending");
  byId("save").hidden = !queue.count("answered");
  document.body.classList.toggle("working", open > 0 && state === "working");
  document.body.classList.toggle("filled", all > 0);
  byId("results").hidden = all === 0;
  const progress = open ? t("progress.open", { done: all - open, n: all }) : outcome(queue);
  byId("progress").textContent = progress;
  document.title = open ? `${all - open}/${all} · Pupila` : "Pupila";
  const notice = open && noticeOf(queue, open);
  byId("notice").hidden = !notice;
  byId("notice").textContent = notice || "";
  if (all) announce(notice || (all === 1 && !open ? summary(queue.items[0]) : progress));
}

/** Say how many pictures were answered, how many cannot be used, and how many may be tried again. */
function outcome(queue) {
  const counts = { "progress.done": queue.count("answered"), "progress.refused": queue.count("refused"), "progress.failed": queue.count("failed") };
  return Object.entries(counts).map(([key, n]) => n && t(key, { n })).filter(Boolean).join(", ");
}

function noticeOf({ state, wait, problem }, open) {
  if (state === "refused") return refusal(problem);
  return { busy: t("state.busy", { n: wait }), gone: t("state.gone", { n: open }), key: t("error.key") }[state];
}

function summary({ file, state, answer }) {
  if (state !== "answered") return `${file.name}: ${t("refused")}`;
  const name = answer.unknown ? t("unknown") : `${className(answer.category)}, ${percent(answer.confidence)}`;
  return `${file.name}: ${name}`;
}

let told = "";
let telling = null;

/** Tell screen readers, at most every second and a half, or they would never come to an end. */
function announce(text) {
  told = text;
  telling ??= setTimeout(() => {
    telling = null;
    if (byId("live").textContent !== told) byId("live").textContent = told;
  }, 1500);
}
