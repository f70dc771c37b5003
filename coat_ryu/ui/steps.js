// Migrations under way, step by step, and the last one that ended or was chosen.

import { duration, el, redraw, words } from "./dom.js";

const TICK = 100; // ms

// The controller knows best; this only keeps a button away that it would refuse.
function tooLate(record) {
  return record.steps.some((step) => step.name === "restore" || (step.name === "checkpoint" && record.mode === "prepared"));
}

export class Steps {
  #root;
  #said;
  #abort;
  #records = new Map();
  #seen = new Map();
  #timer = null;

  constructor(root, said, abort) {
    this.#root = root;
    this.#said = said;
    this.#abort = abort;
  }

  running() {
    return [...this.#records.values()].filter((record) => record.state === "running");
  }

  // The answer to a request, unless events have told more meanwhile.
  begin(record) {
    if (!this.#records.has(record.id)) this.take(record);
  }

  // All records as they are now; what is under way is shown, and what was when the connection was lost.
  known(records) {
    for (const record of records) if (record.state === "running" || this.#records.has(record.id)) this.take(record);
  }

  // A record, whole or as an event tells it, without its steps.
  take(record) {
    const before = this.#records.get(record.id);
    const taken = { ...record, steps: record.steps?.length ? record.steps : (before?.steps ?? []) };
    if (before?.state !== "running" && record.state === "running") this.#forgetEnded();
    this.#records.set(record.id, taken);
    if (before?.state !== taken.state) this.#say(`${record.container} ${words(record.state)}: ${this.#summary(taken)}`);
    this.#draw();
  }

  // Shows a record of the past, in the place of the one that ended last.
  show(record) {
    this.#forgetEnded();
    this.#records.set(record.id, record);
    this.#draw();
    this.#root.querySelector("h3").focus();
  }

  step(event) {
    const record = this.#records.get(event.migration);
    if (!record) return;
    const at = record.steps.findIndex((step) => step.name === event.name);
    if (at < 0) {
      record.steps.push(event);
      this.#say(`${record.container}: ${words(event.name)} on ${event.node}`);
    } else {
      record.steps[at] = event;
    }
    this.#draw();
  }

  #forgetEnded() {
    for (const [id, record] of this.#records) if (record.state !== "running") this.#records.delete(id);
  }

  #say(text) {
    this.#said.textContent = text;
  }

  #summary(record) {
    if (record.state === "running") return `from ${record.source} to ${record.destination}`;
    const frozen = record.downtime_s === null ? "" : `, frozen ${duration(record.downtime_s)}`;
    return `took ${duration(record.duration_s)}${frozen}`;
  }

  #draw() {
    const records = [...this.#records.values()].reverse();
    redraw(this.#root, records.map((record) => this.#migration(record)));
    const ticking = this.running().length > 0;
    if (ticking && !this.#timer) this.#timer = setInterval(() => this.#tick(), TICK);
    if (!ticking) {
      clearInterval(this.#timer);
      this.#timer = null;
      this.#seen.clear();
    }
  }

  #migration(record) {
    const route = `${record.container}: ${record.source} → ${record.destination}`;
    return el(
      "article",
      { class: `migration ${record.state}`, "data-id": record.id },
      el("h3", { tabindex: "-1", "data-key": `head ${record.id}` }, route),
      el("p", { class: "outcome" }, el("strong", {}, words(record.state)), ` · ${this.#summary(record)}`),
      record.error ? el("p", { class: "reason" }, record.error.message, " ", el("code", {}, record.error.cause)) : null,
      el("ol", { class: "steps", "aria-label": `Steps of ${route}` }, ...record.steps.map((step) => this.#step(record, step))),
      record.state === "running" ? this.#abortButton(record) : null,
    );
  }

  #step(record, step) {
    const state = step.duration_s !== null ? "done" : record.state === "running" ? "doing" : "broken";
    const key = `${record.id} ${step.name}`;
    if (state === "doing" && !this.#seen.has(key)) this.#seen.set(key, performance.now());
    const attempts = step.attempts > 1 ? ` (attempt ${step.attempts})` : "";
    return el(
      "li",
      { class: state, "data-step": step.name },
      el("span", { class: "mark", role: "img", "aria-label": state === "doing" ? "under way" : state }),
      el("span", { class: "name" }, words(step.name) + attempts),
      el("span", { class: "at" }, step.node),
      el("span", { class: "time", "data-since": state === "doing" ? this.#seen.get(key) : null }, this.#time(step, key)),
    );
  }

  #time(step, key) {
    if (step.duration_s !== null) return duration(step.duration_s);
    return this.#seen.has(key) ? duration((performance.now() - this.#seen.get(key)) / 1000) : "–";
  }

  #tick() {
    for (const time of this.#root.querySelectorAll("[data-since]")) {
      time.textContent = duration((performance.now() - Number(time.dataset.since)) / 1000);
    }
  }

  #abortButton(record) {
    const late = tooLate(record);
    const press = () => late || this.#abort(record.id);
    const attributes = { type: "button", "data-key": `abort ${record.id}`, "aria-disabled": String(late), onclick: press };
    return el("button", attributes, late ? "Too late to abort" : "Abort");
  }
}
