// Asks the server: what it serves, what is on pictures, and takes corrections there. Knows HTTP, but no element.

const KEY = "pupila.key";

/** Why a request had no good answer. `kind` says what to do about it:
 * gone (no answer: wait until it is back), busy (come back after `wait` seconds), key (an API key is needed),
 * slow (did not arrive in time), late (was not answered in time), refused (the request is at fault), fault (the server is). */
export class Problem extends Error {
  constructor(kind, { status = 0, code = "", message = "", parts = [], wait = 0 } = {}) {
    super(message || code || kind);
    Object.assign(this, { kind, status, code, parts, wait });
  }
}

/** The API key: kept for this tab only. */
export const key = {
  get value() {
    return sessionStorage.getItem(KEY) || "";
  },
  set value(text) {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  },
};

/** Send a request and return its Response if it is a success; throws Problem. `seconds` bounds the whole of it. */
export async function ask(path, options = {}, seconds = 60) {
  const headers = { ...options.headers };
  if (key.value) headers.Authorization = `Bearer ${key.value}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(1000 * seconds) });
  } catch (error) {
    throw new Problem("gone", { message: String(error) });
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  const { status } = response;
  let told = {};
  try {
    told = (await response.json()).error || {};
  } catch {
    // something between us and the server has answered: the status must do
  }
  const wait = Number(response.headers.get("Retry-After")) || 1;
  const kinds = { 401: "key", 408: "slow", 429: "busy", 502: "gone", 503: "busy", 504: "late" };
  return new Problem(kinds[status] || (status >= 500 ? "fault" : "refused"), { status, ...told, wait });
}

/** Send a request and return its JSON; a body that breaks off counts as no answer. Throws Problem. */
export async function askJson(path, options, seconds) {
  const response = await ask(path, options, seconds);
  try {
    return { body: await response.json(), headers: response.headers };
  } catch (error) {
    throw new Problem("gone", { message: String(error) });
  }
}

/** Return the model's card and the server's limits. Throws Problem. */
export async function card() {
  return (await askJson("card", {}, 20)).body;
}

/** Classify files: return {predictions, requestId, model}, one prediction or {error} a file. Throws Problem. */
export async function predict(files, seconds) {
  const form = new FormData();
  for (const file of files) form.append("file", file, file.name || "picture");
  const path = "predict?top=3&explain=1&on_error=partial";
  const { body, headers } = await askJson(path, { method: "POST", body: form }, seconds);
  return { predictions: body.predictions, requestId: headers.get("X-Request-Id"), model: headers.get("Pupila-Model") };
}

/** Say what a picture shows: a class's name, or null for none of them. It is named by `request_id` and `picture`, its
 * place there, or by the `id` that it is kept as. Throws Problem. */
export async function sendFeedback(picture, category) {
  const body = JSON.stringify({ ...picture, category });
  await ask("feedback", { method: "POST", body, headers: { "Content-Type": "application/json" } }, 20);
}

/** Return whether the server can answer now. */
export async function isReady() {
  try {
    await ask("readyz", {}, 5);
    return true;
  } catch {
    return false;
  }
}
