// Migrations that ended, each with a bar of what its steps took, all to one scale.

import { duration, el, redraw, words } from "./dom.js";

const STEPS = [
  "preflight", "image", "hold", "create_namespace", "prepare", "flow_update",
  "checkpoint", "transfer", "restore",
  "clear_namespace", "pages", "finish",
];
const BACK = "undo";
const COLUMNS = ["When", "Container", "Way", "Mode", "State", "In all", "Frozen", "Steps"];

const today = (moment) => moment.toDateString() === new Date().toDateString();
const kind = (step) => (STEPS.includes(step.name) ? step.name : BACK);
const taken = (record) => record.steps.reduce((sum, step) => sum + (step.duration_s ?? 0), 0);

export class History {
  #root;
  #legend;
  #choose;
  #records = [];

  // `choose` is given a record that somebody wants to see.
  constructor(root, legend, choose) {
    this.#root = root;
    this.#legend = legend;
    this.#choose = choose;
    this.#draw();
  }

  show(records) {
    this.#records = records.filter((record) => record.state !== "running");
    this.#draw();
  }

  take(record) {
    this.#records = [record, ...this.#records.filter((one) => one.id !== record.id)];
    this.#draw();
  }

  #draw() {
    const seen = new Set(this.#records.flatMap((record) => record.steps.map(kind)));
    const shown = [...STEPS, BACK].filter((name) => seen.has(name));
    this.#legend.replaceChildren(
      ...shown.map((name) => el("li", {}, el("span", { class: `swatch step-${name}` }), name === BACK ? "way back" : words(name))),
    );
    if (this.#records.length === 0) {
      this.#root.replaceChildren(el("p", { class: "hint" }, "No migration has ended yet."));
      return;
    }
    const longest = Math.max(...this.#records.map(taken));
    const head = el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name)));
    const rows = this.#records.map((record) => this.#row(record, longest));
    redraw(this.#root, [el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))]);
  }

  #row(record, longest) {
    const began = new Date(record.started_at);
    const shown = today(began) ? began.toLocaleTimeString() : began.toLocaleString();
    const route = `${record.source} → ${record.destination}`;
    const look = {
      type: "button",
      class: "link",
      "data-key": record.id,
      "aria-label": `Steps of ${record.container}, ${route}, ${shown}`,
      onclick: () => this.#choose(record),
    };
    const cells = [
      el("time", { datetime: record.started_at, title: began.toLocaleString() }, shown),
      el("button", look, record.container),
      route,
      record.mode + (record.memory === "lazy" ? ", lazy" : ""),
      el("span", { class: `badge ${record.state}`, title: record.error?.message ?? null }, words(record.state)),
      duration(record.duration_s),
      duration(record.downtime_s),
      this.#bar(record, longest),
    ];
    return el("tr", { "data-id": record.id }, ...cells.map((cell, i) => el("td", { "data-column": COLUMNS[i] }, cell)));
  }

  #bar(record, longest) {
    const steps = record.steps.filter((step) => step.duration_s);
    const told = steps.map((step) => `${words(step.name)} ${duration(step.duration_s)}`);
    const bar = el("div", { class: "bar", role: "img", "aria-label": told.join(", ") || "no step ended" });
    for (const [i, step] of steps.entries()) {
      const part = el("span", { class: `step-${kind(step)}`, title: told[i] });
      part.style.width = `${(100 * step.duration_s) / longest}%`;
      bar.append(part);
    }
    return bar;
  }
}
