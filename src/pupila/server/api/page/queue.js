// The pictures that were chosen, and when each is sent. Knows neither elements nor sentences.
//
// No picture is ever dropped: whatever happens to a request, its pictures go back to waiting, or say why they cannot be
// answered. One request is on its way at a time.

import { Problem, isReady, predict } from "./api.js";
import { pause } from "./dom.js";
import { smaller } from "./shrink.js";

const KIB = 1024;
const MOST_PICTURES = 32;
const TRIES = 3;
const PART_HEAD = 1 * KIB; // bytes that a part's header may take, its file name included

/** States of an item: waiting, sending, answered; refused (the picture is at fault) or failed (worth another try). */
export class Queue {
  items = [];
  /** idle, working, busy (the server wants us to come back), gone (it does not answer), key (it wants one), refused (it
   * does not say what it takes: see `problem`). */
  state = "idle";
  wait = 0;
  problem = null;
  #running = false;
  #number = 0;
  // How much goes into one request: little at first, so that answers come soon; then as much as takes about a second.
  #pictures = 8;
  #bytes = 1024 * KIB;

  /** `prepare` returns the server's limits, `askForKey` whether there is a new API key; `onItem` and `onState` are told. */
  constructor({ prepare, askForKey, onItem, onState }) {
    Object.assign(this, { prepare, askForKey, onItem, onState });
  }

  /** Add files and begin; returns their items. */
  add(files) {
    const added = Array.from(files, (file) => ({ id: ++this.#number, file, state: "waiting", tries: 0, alone: false }));
    this.items.push(...added);
    this.start();
    return added;
  }

  /** Forget an item, or all of them. An answer that is on its way for it is passed over. */
  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    this.onState();
  }

  clear() {
    this.items = [];
    this.onState();
  }

  /** Send a failed item again. */
  retry(item) {
    this.#set(item, "waiting", { tries: 0, problem: null });
    this.start();
  }

  count(...states) {
    return this.items.filter((item) => states.includes(item.state)).length;
  }

  /** Work until nothing waits. Safe to call at any time. */
  async start() {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.count("waiting") && (await this.#step()));
    } finally {
      this.#running = false;
      if (this.state !== "key") this.#say("idle");
    }
  }

  /** Send one request's worth; returns false if there is no use in going on. */
  async #step() {
    let batch = [];
    let begun = Infinity;
    try {
      this.limits = await this.prepare();
      batch = await this.#next();
      if (!batch.length) return true;
      this.#say("working");
      for (const item of batch) this.#set(item, "sending");
      begun = performance.now();
      const patience = 2 * this.limits.deadline + 5; // the server's deadline counts from the first byte that it gets
      const answer = await predict(batch.map((item) => item.copy ?? item.file), patience);
      if (answer.predictions.length !== batch.length) throw new Problem("fault");
      this.#learn((performance.now() - begun) / 1000);
      for (const [index, item] of batch.entries()) await this.#take(item, answer, index);
      return true;
    } catch (error) {
      const problem = error instanceof Problem ? error : new Problem("fault", { message: String(error) });
      if (problem !== error) console.error(error); // a mistake of ours must not keep pictures waiting
      batch = batch.filter((item) => item.state === "sending");
      for (const item of batch) this.#set(item, "waiting");
      // Of an upload that is cut off at the server's deadline, browsers often see the end of the connection alone.
      const late = performance.now() - begun > 800 * this.limits?.deadline;
      if (problem.kind === "gone" && late) problem.kind = "slow";
      return this.#mend(problem, batch);
    }
  }

  /** Return the items of the next request: those that had trouble together go alone. */
  async #next() {
    const batch = [];
    const most = this.limits.max_body_bytes - 64 * KIB;
    let bytes = 0;
    for (const item of this.items.filter((other) => other.state === "waiting")) {
      if (item.file.size > Math.min(this.limits.max_part_bytes, most) && !(await this.#shrink(item))) {
        this.#set(item, "refused", { problem: { code: "image_too_many_bytes" } });
        continue;
      }
      const size = (item.copy ?? item.file).size + PART_HEAD;
      const full = batch.length >= Math.min(this.#pictures, this.limits.max_parts) || bytes + size > Math.min(this.#bytes, most);
      if (batch.length && (full || item.alone)) break;
      batch.push(item);
      bytes += size;
      if (item.alone) break;
    }
    return batch;
  }

  #learn(seconds) {
    const factor = seconds < 0.7 ? 2 : seconds > 2 ? 0.5 : 1;
    this.#pictures = Math.min(Math.max(Math.floor(this.#pictures * factor), 1), MOST_PICTURES);
    this.#bytes = Math.min(Math.max(this.#bytes * factor, 64 * KIB), this.limits?.max_body_bytes ?? Infinity);
  }

  async #take(item, { predictions, requestId, model }, index) {
    const found = predictions[index];
    if (!found.error) this.#set(item, "answered", { answer: found, requestId, index, model });
    else if (found.error.code !== "image_too_many_pixels") this.#set(item, "refused", { problem: found.error });
    else await this.#sendSmaller(item, "refused", found.error);
  }

  /** Do what a problem asks for; returns false if there is no use in going on. */
  async #mend(problem, batch) {
    if (!batch.length && !["key", "busy"].includes(problem.kind)) return this.#askLater(problem);
    switch (problem.kind) {
      case "key":
        this.#say("key");
        return this.askForKey();
      case "busy":
        if (batch.length) this.#learn(Infinity); // ask for less at a time
        this.#say("busy", Math.min(problem.wait, 60));
        await pause(this.wait);
        return true;
      case "gone":
        await this.#waitForServer();
        return this.#again(batch, "unreachable");
      case "slow":
        this.#learn(Infinity);
        if (!(await isReady())) await this.#waitForServer();
        if (batch.length === 1) await this.#sendSmaller(batch[0], "failed", { code: "slow" });
        return true;
      case "fault":
        await pause(1);
        return this.#again(batch, "fault");
      case "late":
        this.#learn(Infinity);
        return this.#again(batch, "late");
      default: // refused
        return this.#refuse(problem, batch);
    }
  }

  /** Wait until the server says what it takes. Something between us and it may do as if it answered. */
  async #askLater(problem) {
    this.problem = problem;
    if (problem.kind === "gone") await this.#waitForServer();
    else this.#say("refused");
    await pause(problem.kind === "gone" ? 1 : 3, "online");
    return true;
  }

  async #waitForServer() {
    this.#say("gone");
    for (let seconds = 1; !(await isReady()); seconds = Math.min(seconds * 1.5, 8)) {
      this.#say("gone");
      await pause(seconds, "online");
    }
  }

  /** Give a batch another try, then each of its items alone; in the end say what is wrong. */
  async #again(batch, code) {
    for (const item of batch) {
      item.tries += 1;
      if (item.tries < TRIES) continue;
      if (item.alone && code === "unreachable") await this.#sendSmaller(item, "failed", { code });
      else if (item.alone) this.#set(item, "failed", { problem: { code } });
      else Object.assign(item, { alone: true, tries: 0 });
    }
    return true;
  }

  /** The server says that the request is at fault: name the pictures that are, or find them one by one. */
  async #refuse(problem, batch) {
    const named = problem.parts.filter((part) => batch[part.index]);
    for (const part of named) this.#set(batch[part.index], "refused", { problem: part });
    if (named.length) return true;
    for (const item of batch) item.alone = true;
    const byProxy = problem.status === 413 && !problem.code; // a proxy's own limit, of which the card says nothing
    if (byProxy) this.#learn(Infinity);
    if (batch.length > 1) return true;
    if (byProxy) await this.#sendSmaller(batch[0], "refused", { code: "proxy_refused" });
    else this.#set(batch[0], "refused", { problem });
    return true;
  }

  /** Send a smaller copy of a picture that cannot go whole, once; else it ends as said. */
  async #sendSmaller(item, state, problem) {
    if (item.copy === undefined && (await this.#shrink(item))) this.#set(item, "waiting", { alone: true, tries: 0 });
    else this.#set(item, state, { problem });
  }

  async #shrink(item) {
    item.copy ??= await smaller(item.file);
    return item.copy !== null;
  }

  #set(item, state, more = {}) {
    Object.assign(item, more, { state });
    if (this.items.includes(item)) this.onItem(item);
    this.onState();
  }

  #say(state, wait = 0) {
    Object.assign(this, { state, wait });
    this.onState();
  }
}
