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

/** Return a cell, quoted where it must be; a text that a spreadsheet would take for a formula gets an apostrophe. */
function cell(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /["\r\n,;]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
