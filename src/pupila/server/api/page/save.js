// Saves the answers as a table: CSV with a byte order mark, so that spreadsheets read accents right.

import { h } from "./dom.js";
import { language } from "./i18n.js";

// Spreadsheets set to Portuguese expect semicolons between cells and commas in numbers.
const SEPARATOR = language === "pt-BR" ? ";" : ",";

/** Let the browser download the answers of these items. */
export function saveAnswers(items) {
  const rows = [["file", "category", "confidence", "unknown", "error"], ...items.map(row)];
  const text = rows.map((cells) => cells.map(cell).join(SEPARATOR)).join("\r\n");
  const url = URL.createObjectURL(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv;charset=utf-8" }));
  h("a", { href: url, download: "pupila.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function row({ file, answer, state, problem }) {
  if (state !== "answered") return [file.name, "", "", "", problem?.code ?? problem?.kind ?? state];
  const confidence = answer.confidence.toFixed(4);
  return [file.name, answer.category, SEPARATOR === ";" ? confidence.replace(".", ",") : confidence, answer.unknown ? "yes" : "", ""];
}

// Where a formula begins: at the start of a cell, and after a sign at which another program may split the line.
const FORMULA = /(^|[;,|\t\r\n])(?=[ '\x22]*[=+@\uff1d\uff0b\uff0d\uff20-])/g;

/** Return a cell, quoted where it must be; what a spreadsheet would take for a formula gets an apostrophe. */
function cell(value) {
  const text = value.replace(FORMULA, "$1'").replace(/^(?='*[\t\r])/, "'");
  return /["\r\n,;]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
