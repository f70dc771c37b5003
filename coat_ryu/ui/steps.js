// Migrations under way, step by step, and the last one that ended or was chosen.

import { duration, el, words } from "./dom.js";

const TICK = 100; // ms

export class Steps {
  #root;
  #said;
  #abort;
  #records = new Map();
  #cards = new Map();
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
    for (const [id, record] of this.#records) {
      if (record.state === "running") continue;
      this.#records.delete(id);
      this.#cards.delete(id);
    }
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
    for (const record of this.#records.values()) this.#update(record);
    const cards = [...this.#records.keys()].reverse().map((id) => this.#cards.get(id).card);
    if (cards.some((card, i) => card !== this.#root.children[i]) || cards.length !== this.#root.children.length) {
      this.#root.replaceChildren(...cards);
    }
    const ticking = this.running().length > 0;
    if (ticking && !this.#timer) this.#timer = setInterval(() => this.#tick(), TICK);
    if (!ticking) {
      clearInterval(this.#timer);
      this.#timer = null;
      this.#seen.clear();
    }
  }

  // The button stays the same element: one that is drawn anew under a pressed mouse is never clicked.
  #card(record) {
    const route = `${record.container}: ${record.source} → ${record.destination}`;
    const parts = {
      outcome: el("p", { class: "outcome" }),
      reason: el("p", { class: "reason" }),
      steps: el("ol", { class: "steps", "aria-label": `Steps of ${route}` }),
      abort: el("button", { type: "button", onclick: () => this.#late(record.id) || this.#abort(record.id) }),
    };
    const head = el("h3", { tabindex: "-1" }, route);
    return { ...parts, card: el("article", { "data-id": record.id }, head, ...Object.values(parts)) };
  }

  #update(record) {
    if (!this.#cards.has(record.id)) this.#cards.set(record.id, this.#card(record));
    const { card, outcome, reason, steps, abort } = this.#cards.get(record.id);
    card.className = `migration ${record.state}`;
    outcome.replaceChildren(el("strong", {}, words(record.state)), ` · ${this.#summary(record)}`);
    reason.hidden = !record.error;
    if (record.error) reason.replaceChildren(record.error.message, " ", el("code", {}, record.error.cause));
    steps.replaceChildren(...record.steps.map((step) => this.#step(record, step)));
    abort.hidden = record.state !== "running";
    abort.setAttribute("aria-disabled", String(this.#late(record.id)));
    abort.textContent = this.#late(record.id) ? "Too late to abort" : "Abort";
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

  // The controller knows best; this only keeps from asking what it would refuse.
  #late(id) {
    const { mode, steps } = this.#records.get(id);
    return steps.some(({ name }) => name === "restore" || (name === "checkpoint" && mode === "prepared"));
  }
}
