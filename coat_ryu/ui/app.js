// What the page knows of the controller, kept up to date by its events, and who is told when that changes.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import { Graph } from "./graph.js";
import { History } from "./history.js";
import { MoveDialog } from "./move.js";
import { Steps } from "./steps.js";

const SHOWN = 30; // migrations in the history
const LONGEST_WAIT = 5; // seconds between attempts to reach the controller
const SETTLE = 150; // ms: many things happen at once, and are looked at once

const dialog = new MoveDialog(
  (request) => attempt(() => move(request)),
  (name) => graph.focus(name),
);
const graph = new Graph(byId("graph"), (container, to) => dialog.open(container, to, graph.nodes));
const steps = new Steps(byId("migrations"), byId("said"), (id) => attempt(() => api.abort(id)));
const history = new History(byId("history"), byId("legend"), (record) => steps.show(record));

function report(error) {
  if (error.status === 401) askForToken();
  const close = el("button", { type: "button", "aria-label": "Dismiss", onclick: () => line.remove() }, "×");
  const cause = error.cause ? el("code", {}, error.cause) : null;
  const line = el("p", { class: "error" }, el("span", {}, error.message, " ", cause), close);
  byId("errors").replaceChildren(line);
}

async function attempt(work) {
  byId("errors").replaceChildren();
  try {
    await work();
  } catch (error) {
    report(error);
  }
}

async function move(request) {
  steps.begin(await api.migrate(request));
}

function askForToken() {
  byId("token-form").hidden = false;
  byId("token").focus();
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.token.set(byId("token").value.trim());
  byId("token").value = "";
  byId("token-form").hidden = true;
  byId("errors").replaceChildren();
  if (!living) live();
});

// Containers are asked for on their hosts, where that would stand in a migration's way.
async function look(containers) {
  const asked = [api.topology(), api.nodes(), containers ? api.containers() : undefined];
  const [topology, nodes, found] = await Promise.all(asked);
  byId("topology").textContent = topology.name;
  graph.show(topology, nodes, found);
}

let looking;
function lookSoon() {
  clearTimeout(looking);
  looking = setTimeout(() => look(steps.running().length === 0).catch(report), SETTLE);
}

async function ended(id) {
  const record = await api.migration(id);
  steps.take(record);
  history.take(record);
}

function happened(event) {
  if (event.kind === "step") {
    steps.step(event);
  } else if (event.kind === "migration") {
    steps.take(event);
    if (event.state !== "running") ended(event.id).catch(report);
  }
  if (event.kind === "binding") graph.bound(event);
  if (event.kind !== "step") lookSoon();
  graph.moving(steps.running());
}

// Looks at everything once the stream has begun: what happens meanwhile waits, and then comes on top of it.
async function watch() {
  let waiting = [];
  let opened;
  const begun = new Promise((resolve) => (opened = resolve));
  const ending = new AbortController();
  const stream = api.follow(opened, (event) => (waiting ? waiting.push(event) : happened(event)), ending.signal);
  try {
    await Promise.race([begun, stream]);
    const [records] = await Promise.all([api.migrations(SHOWN), look(true)]);
    history.show(records);
    steps.known(records);
    graph.moving(steps.running());
    const late = waiting;
    waiting = null;
    late.forEach(happened);
    connected("live");
    await stream;
  } finally {
    ending.abort();
  }
}

function connected(state) {
  byId("connection").textContent = state;
  document.body.classList.toggle("live", state === "live");
}

let living = false;
async function live() {
  living = true;
  for (let wait = 1; living; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    try {
      await watch();
      wait = 1;
    } catch (error) {
      if (error.status !== 0) report(error);
      living = error.status !== 401;
    }
    connected(living ? "connecting again" : "not connected");
    if (living) await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
  }
}

live();
