// Which language the page speaks, and how it writes numbers in it. Knows no sentence; those are in strings.js.

import { STRINGS } from "./strings.js";

const CHOSEN = "pupila.language";
const NAMES = { en: "English", "pt-BR": "Português" };

/** The language that was chosen here, or the first of the browser's that the page speaks: any English, any Portuguese;
 * else English. */
export const language = choose([stored(), ...(navigator.languages || [navigator.language])]);

const sentences = { ...STRINGS.en, ...STRINGS[language] };
const plural = new Intl.PluralRules(language);

function choose(wanted) {
  for (const tag of wanted) {
    const main = String(tag).toLowerCase().split("-")[0];
    if (main === "pt") return "pt-BR";
    if (main === "en") return "en";
  }
  return "en";
}

function stored() {
  try {
    return localStorage.getItem(CHOSEN) ?? "";
  } catch {
    return ""; // browsers can be told to keep nothing
  }
}

/** Let a select element choose the language; the page is loaded again in it. `ask` returns whether that may be done now. */
export function chooseLanguage(select, ask = () => true) {
  for (const [tag, name] of Object.entries(NAMES)) select.append(new Option(name, tag, false, tag === language));
  select.addEventListener("change", () => {
    if (!ask()) return void (select.value = language);
    try {
      localStorage.setItem(CHOSEN, select.value);
    } catch {
      return;
    }
    location.reload();
  });
}

/** Add sentences, for another page that uses this module: {en: {...}, "pt-BR": {...}}. */
export function addStrings(more) {
  Object.assign(sentences, more.en, more[language]);
}

/** Return a sentence with {values} filled in; one of {one, other} is chosen by values.n. Numbers are written out. */
export function t(key, values = {}) {
  let text = sentences[key];
  if (text === undefined) return key;
  if (typeof text === "object") text = text[plural.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name] ?? "";
    return typeof value === "number" ? number(value) : value;
  });
}

/** Return what a problem is: a sentence of this part of the page, or one of the whole page's; else what the server says. */
export function reason(part, { code, kind, message }) {
  const names = [`${part}.${code}`, `${part}.${kind}`, `error.${code}`, `error.${kind}`];
  return t(names.find((name) => name in sentences) ?? (message ? "error.told" : "error.fault"), { message });
}

/** Return a class's name in the reader's language where it is an everyday word, else as the model has it. */
export function className(category) {
  return sentences[`class.${category}`] ?? category;
}

export function number(value) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(value);
}

/** Return 0.871 as 87%, or with so many digits; never 0 or 100 where it is not quite. */
export function percent(fraction, digits = 0) {
  const edge = 0.5 * 10 ** (-digits - 2);
  const options = { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits };
  const format = (value) => new Intl.NumberFormat(language, options).format(value);
  if (fraction > 1 - edge && fraction < 1) return `> ${format(1 - 2 * edge)}`;
  if (fraction < edge && fraction > 0) return `< ${format(2 * edge)}`;
  return format(fraction);
}

export function megabytes(bytes) {
  return `${number(Math.round(bytes / 104857.6) / 10)} MB`;
}

/** Put the sentences into a part of the page: data-t names an element's text, data-t-label its label. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
}

document.documentElement.lang = language;
