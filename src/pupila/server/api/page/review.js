// Walks a person through the pictures that the server keeps: the least sure first. Each is said to be of a class, or none.

import { Problem, ask, askJson, sendFeedback } from "./api.js";
import { byId, h, pause } from "./dom.js";
import { addStrings, className, percent, reason, t, translate } from "./i18n.js";
import { askForKey, keyButton } from "./key.js";
import { REVIEW } from "./review-strings.js";

const SIGNS = [..."1234567890abcdefghijklmopqrstuvwxyz"]; // no n: that is for none
const PAGE = 50;
const TRIES = 20;

let show = "uncertain";
let list = []; // what was loaded, in order; an entry keeps what was said of it
let classes = [];
let at = 0;
let whole = false; // whether the server has no more than `list`
let busy = false;
let keysOn = true;
let url = "";

addStrings(REVIEW);
translate(document);
document.title = t("review.page");
for (const name of ["uncertain", "corrected"]) byId(name).addEventListener("click", () => choose(name));
byId("previous").addEventListener("click", () => go(-1));
byId("next").addEventListener("click", () => go(1));
byId("delete").addEventListener("click", remove);
byId("shortcuts").addEventListener("click", () => {
  keysOn = !keysOn;
  byId("shortcuts").setAttribute("aria-pressed", keysOn);
});
addEventListener("keydown", onKey);
keyButton(() => choose(show));
choose(show);

// Which pictures

async function choose(name) {
  if (busy) return;
  show = name;
  for (const one of ["uncertain", "corrected"]) byId(one).setAttribute("aria-pressed", one === name);
  [list, at, whole] = [[], 0, false];
  await working(async () => {
    await more();
    await display();
  });
}

/** Load the next pictures. Those that were corrected since are no longer among the uncertain ones. */
async function more() {
  const open = show === "uncertain" ? list.filter((item) => !item.corrected).length : list.length;
  const { body } = await patiently(() => askJson(`review/pictures?show=${show}&limit=${PAGE}&offset=${open}`));
  const known = new Set(list.map((item) => item.id));
  classes = body.classes;
  whole = body.pictures.length < PAGE;
  list.push(...body.pictures.filter((item) => !known.has(item.id)));
}

async function go(step) {
  if (busy || !list.length) return;
  await working(async () => {
    if (at + step >= list.length && !whole) await more();
    const next = at + step;
    if (next >= list.length) tell(t("review.end"));
    if (next < 0 || next >= list.length) return;
    at = next;
    await display();
  });
}

// One picture

async function display() {
  const item = list[at];
  for (const id of ["shown", "choices", "steps", "hints"]) byId(id).hidden = !item;
  if (!item) return tell(t("review.empty"));
  const name = className(item.category);
  const values = { name, confidence: percent(item.confidence) };
  byId("place").textContent = t(whole ? "review.place" : "review.place_more", { at: at + 1, n: list.length });
  byId("answer").textContent = t(item.unknown ? "review.answer_unknown" : "review.answer", values);
  byId("picture").alt = t("review.alt", { at: at + 1, name });
  byId("previous").disabled = at === 0;
  byId("next").disabled = whole && at === list.length - 1;
  showSaid(item);
  tell(`${byId("place").textContent}. ${byId("answer").textContent}`, true);
  await showPicture(item);
}

async function showPicture(item) {
  URL.revokeObjectURL(url);
  byId("picture").removeAttribute("src");
  try {
    url = URL.createObjectURL(await (await patiently(() => ask(`review/pictures/${item.id}`))).blob());
    byId("picture").src = url;
    byId("picture").dataset.id = item.id;
  } catch (problem) {
    if (problem.code !== "picture_unknown") throw problem;
    tell(reason("review", problem));
  }
}

function showSaid(item) {
  byId("said").textContent = item.corrected ? t("review.said", { name: nameOf(item.correction) }) : t("review.unsaid");
  const entries = [...classes.map((name, index) => [name, SIGNS[index]]), [null, "n"]];
  const buttons = entries.map(([name, sign]) => {
    const said = item.corrected && item.correction === name;
    const kind = `choice${name === item.category && !item.unknown ? " answered" : ""}`;
    const made = h("button", { type: "button", className: kind, "aria-pressed": String(said) }, sign ? h("kbd", { "aria-hidden": "true" }, sign) : null, " ", nameOf(name));
    made.addEventListener("click", () => say(name));
    return made;
  });
  const held = [...byId("choices").children].indexOf(document.activeElement);
  byId("choices").replaceChildren(...buttons);
  if (held >= 0) buttons[held]?.focus();
}

function nameOf(category) {
  return category === null ? t("unknown") : className(category);
}

/** Send what the picture shows, and go on once the server has it. */
async function say(category) {
  const item = list[at];
  if (busy || !item) return;
  await working(async () => {
    await patiently(() => sendFeedback({ id: item.id }, category));
    item.corrected = true;
    item.correction = category;
    showSaid(item);
    tell(t("review.saved", { name: nameOf(category) }), true);
  });
  if (item.corrected && show === "uncertain") await go(1);
}

/** Delete the picture from the server, and go on. */
async function remove() {
  const item = list[at];
  if (busy || !item || !confirm(t("review.delete_sure"))) return;
  await working(async () => {
    await patiently(() => ask(`review/pictures/${item.id}`, { method: "DELETE" }));
    list.splice(at, 1);
    at = Math.min(at, Math.max(list.length - 1, 0));
    await display();
  });
}

function onKey(event) {
  if (!keysOn || event.ctrlKey || event.altKey || event.metaKey || byId("key-dialog")) return;
  const pressed = event.key.toLowerCase();
  const index = SIGNS.indexOf(pressed);
  if (event.key === "ArrowRight") go(1);
  else if (event.key === "ArrowLeft") go(-1);
  else if (pressed === "n") say(null);
  else if (index >= 0 && index < classes.length) say(classes[index]);
  else return;
  event.preventDefault();
}

// The server

/** Do one thing at a time, and say what went wrong with it. */
async function working(action) {
  busy = true;
  byId("stage").setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tell(reason("review", problem));
  } finally {
    busy = false;
    byId("stage").removeAttribute("aria-busy");
  }
}

/** Ask again while the server is away or busy, and for a key where it wants one. Throws Problem. */
async function patiently(request) {
  for (let tries = 1; ; tries++) {
    try {
      const answer = await request();
      byId("notice").hidden = true;
      return answer;
    } catch (problem) {
      if (!(problem instanceof Problem) || tries >= TRIES) throw problem;
      if (["gone", "busy", "slow"].includes(problem.kind)) {
        tell(t("review.trying"));
        await pause(problem.wait || 2, "online");
      } else if (problem.kind !== "key" || !(await askForKey())) throw problem;
    }
  }
}

/** Say something to everybody, or only to those who listen. */
function tell(text, quietly = false) {
  byId("live").textContent = text;
  byId("notice").hidden = quietly;
  byId("notice").textContent = quietly ? "" : text;
}
