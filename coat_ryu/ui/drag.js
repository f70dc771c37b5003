// Dragging a container with mouse or pen. A finger scrolls, and chooses by a tap.

const SLACK = 6; // px that a click may tremble

export class Drag {
  busy = false; // since a press: what is drawn anew now would be neither dragged nor clicked
  #dragging = false;
  #root;
  #told;
  #chip = null;
  #start = [0, 0];
  #over = null;

  constructor(root, told) {
    this.#root = root;
    this.#told = told;
    root.addEventListener("pointerdown", (event) => this.#press(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    document.addEventListener("pointerup", () => this.#release());
    document.addEventListener("pointercancel", () => this.#end());
    // What ends a drag is no click on the container.
    root.addEventListener("click", (event) => this.#dragging && event.stopPropagation(), { capture: true });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.#end());
  }

  #press(event) {
    const chip = event.target.closest("[data-container]");
    if (!chip || event.button !== 0 || event.pointerType === "touch") return;
    this.busy = true;
    this.#chip = chip;
    this.#start = [event.clientX, event.clientY];
  }

  #move(event) {
    if (!this.#chip) return;
    const [x, y] = [event.clientX - this.#start[0], event.clientY - this.#start[1]];
    if (!this.#dragging) {
      if (Math.hypot(x, y) < SLACK) return;
      this.#dragging = true;
      this.#root.setPointerCapture(event.pointerId);
      this.#chip.classList.add("dragged");
      this.#chip.closest(".node").classList.add("left");
    }
    this.#chip.style.transform = `translate(${x}px, ${y}px)`;
    this.#hover(document.elementFromPoint(event.clientX, event.clientY)?.closest(".node") ?? null);
  }

  #hover(node) {
    const other = node && !node.contains(this.#chip) ? node : null;
    this.#over?.classList.remove("over");
    other?.classList.add("over");
    this.#over = other;
  }

  #release() {
    const [chip, over] = [this.#chip, this.#over];
    const dropped = this.#dragging && over;
    this.#end();
    if (dropped) this.#told.dropped(chip.dataset.container, over.dataset.node);
  }

  #end() {
    if (!this.#chip) return;
    this.#hover(null);
    this.#chip.classList.remove("dragged");
    this.#chip.closest(".node")?.classList.remove("left");
    this.#chip.style.transform = "";
    this.#chip = null;
    // The click that belongs to this release comes after it.
    setTimeout(() => {
      this.busy = this.#dragging = false;
      this.#told.ended();
    });
  }
}
