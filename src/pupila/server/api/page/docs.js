// Shows the API from openapi.json: what each path takes and answers, and a form to try it.

import { Problem, ask } from "./api.js";
import { byId, h } from "./dom.js";
import { addStrings, chooseLanguage, reason, t, translate } from "./i18n.js";
import { askForKey, keyButton } from "./key.js";
import { DOCS } from "./docs-strings.js";

const METHODS = ["get", "post", "put", "delete"];
const SHOWN = 20_000; // letters of an answer

addStrings(DOCS);
translate(document);
document.title = `Pupila: ${t("docs.title")}`;
chooseLanguage(byId("language"));
keyButton(show);
show();

async function show() {
  try {
    const api = await (await ask("openapi.json")).json();
    const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
      METHODS.filter((method) => methods[method]).map((method) => operation(api, path, method, methods[method])),
    );
    byId("operations").replaceChildren(...operations);
    byId("notice").hidden = true;
    operations[0].open = true;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.kind === "key" && (await askForKey())) return show();
    byId("notice").textContent = reason("error", problem);
  }
}

function operation(api, path, method, described) {
  const parameters = (described.parameters ?? []).map((one) => resolved(api, one));
  const inside = h("div", { className: "inside" },
    described.description && h("p", {}, described.description),
    parameters.length > 0 && h("h3", {}, t("docs.parameters")),
    parameters.length > 0 && h("dl", {}, ...parameters.flatMap((one) => [h("dt", {}, h("code", {}, one.name)), h("dd", {}, one.description ?? "")])),
    h("h3", {}, t("docs.curl")),
    h("pre", { tabIndex: 0 }, curl(path, method, described)),
    h("h3", {}, t("docs.try")),
    ...attempt(path, method, described, parameters),
  );
  const summary = h("summary", {}, h("span", { className: "method" }, method.toUpperCase()), h("code", {}, path), h("span", { className: "soft" }, described.summary ?? ""));
  return h("details", {}, summary, inside);
}

function resolved(api, part) {
  if (!part.$ref) return part;
  return part.$ref.slice(2).split("/").reduce((found, name) => found[name], api);
}

/** Return what a body may be: files, JSON, or nothing. */
function bodyOf({ requestBody }) {
  const kinds = Object.keys(requestBody?.content ?? {});
  if (kinds.includes("multipart/form-data")) return "files";
  if (kinds.includes("application/json")) return "json";
  return kinds.length ? "file" : null;
}

function curl(path, method, described) {
  const address = new URL(path.replace(/^\//, ""), document.baseURI).href;
  const body = { files: "-F file=@photo.jpg ", file: "-T photo.jpg ", json: "-H 'Content-Type: application/json' -d '{...}' " }[bodyOf(described)] ?? "";
  const verb = method === "get" || body ? "" : `-X ${method.toUpperCase()} `;
  return `curl ${verb}${body}'${address}'`;
}

/** Return a form that sends the request, and the place where its answer is shown. */
function attempt(path, method, described, parameters) {
  const kind = bodyOf(described);
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
  const values = [...inPath.map((name) => ({ name })), ...parameters.filter((one) => one.in === "query")];
  const fields = values.map((one) => [one, field(one)]);
  const files = kind?.startsWith("file") && h("input", { type: "file", multiple: kind === "files", required: true, accept: "image/*" });
  const text = kind === "json" && h("textarea", { required: true, spellcheck: false });
  const send = h("button", { type: "submit", className: "strong" }, t("docs.send"));
  const answer = h("pre", { hidden: true, role: "status", tabIndex: 0 });
  const form = h("form", {}, ...fields.map(([one, input]) => h("label", {}, one.name, input)),
    files && h("label", {}, t("docs.pictures"), files), text && h("label", { className: "long" }, "JSON", text), send);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const address = new URL(path.replace(/^\//, "").replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(valueOf(fields, name))), document.baseURI);
    for (const [one, input] of fields) if (one.in === "query" && input.value) address.searchParams.set(one.name, input.value);
    answer.hidden = false;
    answer.textContent = t("docs.waiting");
    answer.textContent = await answered(address.href, { method: method.toUpperCase(), ...body(kind, files, text) });
  });
  return [form, answer];
}

function valueOf(fields, name) {
  return fields.find(([one]) => one.name === name)[1].value;
}

function field({ name, schema = {}, in: where }) {
  if (!schema.enum) return h("input", { name, type: schema.type === "integer" ? "number" : "text", required: !where });
  return h("select", { name }, h("option", { value: "" }, ""), ...schema.enum.map((value) => h("option", { value }, value)));
}

function body(kind, files, text) {
  if (kind === "json") return { body: text.value, headers: { "Content-Type": "application/json" } };
  if (kind === "file") return { body: files.files[0], headers: { "Content-Type": "application/octet-stream" } };
  if (kind !== "files") return {};
  const form = new FormData();
  for (const file of files.files) form.append("file", file);
  return { body: form };
}

/** Send a request and return its answer as text, errors included. */
async function answered(address, options) {
  try {
    const response = await ask(address, options);
    const type = response.headers.get("Content-Type") ?? "";
    if (type.startsWith("image/")) return `${response.status} ${type}, ${(await response.blob()).size} bytes`;
    return `${response.status}\n${pretty(await response.text())}`;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return `${problem.status || ""} ${problem.code}\n${problem.message}`.trim();
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2).slice(0, SHOWN);
  } catch {
    return text.slice(0, SHOWN);
  }
}
