// Where a container shall go: what that would come to is shown before it is begun.

import * as api from "./api.js";
import { byId, duration, el, size } from "./dom.js";

export class MoveDialog {
  #dialog = byId("move");
  #to = byId("move-to");
  #mode = byId("move-mode");
  #plan = byId("move-plan");
  #go = byId("move-go");
  #container = null;
  #asking = new AbortController();

  // `begin` is given the request of a migration; `closed` the container's name, when the dialog has closed.
  constructor(begin, closed) {
    this.#to.addEventListener("change", () => this.#ask());
    this.#mode.addEventListener("change", () => this.#ask());
    this.#go.addEventListener("click", (event) => this.#possible || event.preventDefault());
    this.#dialog.addEventListener("close", () => {
      this.#asking.abort();
      closed(this.#container.name);
      if (this.#dialog.returnValue === "go") begin(this.#request());
    });
  }

  open(container, to, nodes) {
    this.#container = container;
    byId("move-title").textContent = `Move ${container.name}`;
    const others = nodes.filter((node) => node.name !== container.node);
    const option = (node) => el("option", { value: node.name, selected: node.name === to }, node.ready ? node.name : `${node.name} (not ready)`);
    this.#to.replaceChildren(...others.map(option));
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    (to ? this.#go : this.#to).focus();
    this.#ask();
  }

  get #possible() {
    return this.#go.getAttribute("aria-disabled") !== "true";
  }

  #request() {
    return { container: this.#container.name, to: this.#to.value, mode: this.#mode.value };
  }

  async #ask() {
    this.#asking.abort();
    const asking = (this.#asking = new AbortController());
    this.#go.setAttribute("aria-disabled", "true");
    this.#plan.replaceChildren(el("p", { class: "hint" }, "Asking both hosts …"));
    try {
      const plan = await api.plan(this.#request(), asking.signal);
      if (asking.signal.aborted) return;
      this.#go.setAttribute("aria-disabled", String(!plan.possible));
      this.#plan.replaceChildren(...(plan.possible ? expected(plan) : refused(plan.refusals)));
    } catch (error) {
      if (!asking.signal.aborted) this.#plan.replaceChildren(...refused([error]));
    }
  }
}

function expected({ source, destination, expected: found }) {
  if (!found) return [el("p", {}, `From ${source} to ${destination}. How long it takes is not known.`)];
  const basis =
    found.basis === "history"
      ? `Learned from ${found.samples} ${found.samples === 1 ? "migration" : "migrations"}.`
      : "There were none yet to learn from.";
  const rows = [
    ["Frozen for about", duration(found.downtime_s)],
    ["In all about", duration(found.duration_s)],
    ["Goes over the network", size(found.checkpoint_bytes)],
  ];
  return [
    el("dl", {}, ...rows.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value)))),
    el("p", { class: "hint" }, basis),
  ];
}

function refused(reasons) {
  const told = (reason) => el("li", {}, reason.message, " ", el("code", {}, reason.cause));
  return [el("p", { class: "reason" }, "It cannot move:"), el("ul", { class: "reason" }, ...reasons.map(told))];
}
