// The overlay: a card for each host with its containers, and the tunnels between them, on an ellipse, where no tunnel
// passes behind a third host.

import { Drag } from "./drag.js";
import { el, redraw, svg } from "./dom.js";

const GAP = 12; // px between cards
const FLATTEST = 130; // px, the least half height of the ellipse
const WIDEST = 1100; // px; wider, the eye loses what belongs together

export class Graph {
  nodes = [];
  #root;
  #lines = svg("svg", { role: "img", "aria-label": "Tunnels" });
  #cards = el("ul", { class: "cards" });
  #choose;
  #drag;
  #topology = null;
  #containers = [];
  #moves = [];

  // `choose(container, to)` is called for a container that was chosen (`to` null) or dropped on a host.
  constructor(root, choose) {
    this.#root = root;
    this.#choose = choose;
    root.append(this.#lines, this.#cards);
    this.#drag = new Drag(root, {
      dropped: (name, to) => choose(this.#container(name), to),
      ended: () => this.#draw(),
    });
    new ResizeObserver(() => this.#place()).observe(root);
  }

  // `containers` undefined: as they were.
  show(topology, nodes, containers) {
    this.nodes = nodes;
    this.#topology = topology;
    this.#containers = containers ?? this.#containers;
    this.#draw();
  }

  // Where a container's frames go now.
  bound({ container, node }) {
    const found = this.#container(container);
    if (found) found.node = node;
    this.#draw();
  }

  // Which migrations are under way.
  moving(records) {
    const same = records.map((record) => record.id).join() === this.#moves.map((record) => record.id).join();
    this.#moves = records;
    if (!same) this.#draw();
  }

  focus(name) {
    this.#cards.querySelector(`[data-key="${CSS.escape(name)}"]`)?.focus({ preventScroll: true });
  }

  #container(name) {
    return this.#containers.find((one) => one.name === name);
  }

  #draw() {
    if (this.#drag.busy) return;
    redraw(this.#cards, this.nodes.map((node) => this.#card(node)));
    this.#place();
  }

  #card(node) {
    const residents = this.#containers.filter((one) => one.node === node.name);
    const state = node.ready ? "ready" : "not ready";
    return el(
      "li",
      { class: `node ${node.ready ? "up" : "down"}`, "data-node": node.name },
      el("h3", {}, node.name),
      el("p", { class: "facts" }, el("span", { class: "state" }, state), ` · ${node.address}`),
      node.error ? el("p", { class: "problem", title: node.error }, node.error) : null,
      el("ul", { "aria-label": `Containers on ${node.name}` }, ...residents.map((one) => el("li", {}, this.#chip(one)))),
    );
  }

  #chip(one) {
    const moves = this.#moves.some((record) => record.container === one.name);
    const state = moves ? "migrating" : one.state;
    const said = `${one.name}, ${state}, ${one.ip ?? one.ip6}, on ${one.node}. Move to another host`;
    const attributes = {
      type: "button",
      class: `container ${state}`,
      "data-key": one.name,
      "data-container": one.name,
      "aria-label": said,
      "aria-haspopup": "dialog",
      title: one.problem ?? `${one.image}, ${one.mac}`,
      onclick: () => this.#choose(one, null),
    };
    return el(
      "button",
      attributes,
      el("span", { class: "chip-name" }, one.name),
      el("span", { class: "ip" }, one.ip ?? one.ip6),
      state === "running" ? null : el("span", { class: "chip-state" }, state),
    );
  }

  #place() {
    const cards = [...this.#cards.children];
    if (cards.length === 0) return;
    const width = Math.min(this.#root.clientWidth, WIDEST);
    const left = (this.#root.clientWidth - width) / 2;
    const sizes = cards.map((card) => [card.offsetWidth, card.offsetHeight]);
    const centres = centresOf(sizes, width);
    const top = Math.min(...centres.map(([, y], i) => y - sizes[i][1] / 2)) - 2;
    const height = Math.max(...centres.map(([, y], i) => y + sizes[i][1] / 2)) - top + 2;
    this.#root.style.height = `${height}px`;
    const places = new Map();
    cards.forEach((card, i) => {
      const [x, y] = [left + centres[i][0], centres[i][1] - top];
      card.style.transform = `translate(${Math.round(x - sizes[i][0] / 2)}px, ${Math.round(y - sizes[i][1] / 2)}px)`;
      places.set(card.dataset.node, [x, y]);
    });
    this.#connect(places);
  }

  #connect(places) {
    const { tunnels } = this.#topology;
    const told = tunnels.map(({ between, up }) => `${between.join(" to ")} ${up ? "up" : "down"}`);
    this.#lines.setAttribute("aria-label", `Tunnels: ${told.join(", ") || "none"}`);
    const known = tunnels.filter(({ between }) => between.every((name) => places.has(name)));
    this.#lines.replaceChildren(...known.flatMap((tunnel) => this.#tunnel(tunnel, ...tunnel.between.map((name) => places.get(name)))));
    for (const { source, destination } of this.#moves) {
      const ends = [places.get(source), places.get(destination)];
      if (ends.every(Boolean)) this.#lines.append(line("way", ...ends));
    }
  }

  #tunnel({ between, up, down_at: downAt }, from, to) {
    const drawn = line(`tunnel ${up ? "up" : "down"}`, from, to);
    drawn.append(svg("title", {}, `${between.join(" – ")}: ${up ? "up" : `down, says ${downAt.join(" and ")}`}`));
    if (up) return [drawn];
    const middle = { x: (from[0] + to[0]) / 2, y: (from[1] + to[1]) / 2 };
    return [drawn, svg("text", { ...middle, class: "tunnel-down", dy: "0.35em" }, "✕ down")];
  }
}

function line(kind, [x1, y1], [x2, y2]) {
  return svg("line", { class: kind, x1, y1, x2, y2 });
}

// Centres for cards of these sizes: on the flattest ellipse of that width where none of them touch; where there is no room
// for one, in two columns.
function centresOf(sizes, width) {
  const across = (width - Math.max(...sizes.map(([w]) => w))) / 2;
  const tallest = Math.max(...sizes.map(([, h]) => h)) + GAP;
  const angles = sizes.map((_, i) => (2 * Math.PI * (i - (sizes.length % 2 ? 0 : 0.5))) / sizes.length - Math.PI / 2);
  const widest = Math.max(...angles.map((angle) => Math.abs(Math.cos(angle)))) || 1;
  for (let up = FLATTEST; up <= tallest * sizes.length; up += GAP) {
    const centres = angles.map((angle) => [width / 2 + (across * Math.cos(angle)) / widest, up * Math.sin(angle)]);
    if (!touching(centres, sizes)) return centres;
  }
  const filled = [0, 0];
  return sizes.map(([, height], i) => {
    const y = filled[i % 2] + height / 2;
    filled[i % 2] += height + 3 * GAP;
    return [width / 2 + (i % 2 ? across : -across), y];
  });
}

function touching(centres, sizes) {
  const near = (i, j, axis) => Math.abs(centres[i][axis] - centres[j][axis]) < (sizes[i][axis] + sizes[j][axis]) / 2 + GAP;
  return centres.some((_, i) => centres.some((_, j) => j < i && near(i, j, 0) && near(i, j, 1)));
}
