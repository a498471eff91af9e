// @ts-check
// What stands around the panels of a map: the tools, the search, the legend and what the pointer shows.

/**
 * @typedef {{title: string, entries?: {text: string, color: number}[], ramp?: number[], ticks?: {text: string, at: number}[]}} Legend
 * @typedef {import("./map.js").AtomMap} AtomMap
 */

const WAIT = 120; // milliseconds without a key before a search

/**
 * An element with a class and a text; text is never HTML.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {string} [style]
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, style = "", text = "") {
  const element = document.createElement(tag);
  if (style) element.className = style;
  if (text) element.textContent = text;
  return element;
}

/**
 * @param {string} text
 * @param {string} help
 * @param {() => void} action
 */
function button(text, help, action) {
  const element = make("button", "", text);
  element.type = "button";
  element.title = help;
  if (text.length < 2) element.setAttribute("aria-label", help);
  element.addEventListener("click", action);
  return element;
}

export class Tools {
  /** @param {AtomMap} map */
  constructor(map) {
    this.map = map;
    this.element = make("div", "tools");
    this.move = button("Move", "Drag to move, scroll to zoom", () => map.use("move"));
    this.lasso = button("Lasso", "Draw around features to list them; or hold Shift", () => map.use("lasso"));
    const pair = make("span", "group");
    pair.append(this.move, this.lasso);
    const zoom = make("span", "group");
    zoom.append(
      button("+", "Zoom in", () => map.zoom(1.5)),
      button("−", "Zoom out", () => map.zoom(1 / 1.5)),
      button("All", "Show the whole map", () => map.zoom(0)),
    );
    this.search = make("input");
    this.search.type = "search";
    this.search.placeholder = "Search: label, token, number or 1:6";
    this.search.setAttribute("aria-label", "Search features on the map by label, suggestion, token, number, or member and number such as 1:6; Enter lists them");
    this.status = make("span", "status");
    this.status.setAttribute("role", "status");
    this.list = button("List", "List the highlighted features below the map", () => map.listLit());
    this.clear = button("Clear", "Take the highlighting away", () => map.clear());
    this.element.append(pair, zoom, this.search, this.list, this.clear, this.status);
    this.#listen();
  }

  #listen() {
    let timer = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => this.map.seek(this.search.value), WAIT);
    });
    this.search.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Enter") return;
      clearTimeout(timer);
      this.map.seek(this.search.value);
      this.map.listLit();
    });
  }

  /**
   * @param {string} tool
   * @param {boolean} lit whether features are highlighted
   * @param {string} status
   */
  show(tool, lit, status) {
    this.move.setAttribute("aria-pressed", String(tool === "move"));
    this.lasso.setAttribute("aria-pressed", String(tool === "lasso"));
    this.list.hidden = this.clear.hidden = !lit;
    if (this.status.textContent !== status) this.status.textContent = status;
  }
}

/**
 * The legend: a category can be taken off the map by a click.
 * @param {Legend} legend
 * @param {string[]} palette
 * @param {Set<number>} off colours that are taken off
 * @param {(color: number) => void} toggle
 */
export function legendOf(legend, palette, off, toggle) {
  const element = make("div", "legend");
  element.append(make("span", "name", legend.title));
  for (const { text, color } of legend.entries ?? []) {
    const entry = button(text, "Show or hide", () => toggle(color));
    entry.setAttribute("aria-pressed", String(!off.has(color)));
    const dot = make("i");
    dot.style.background = palette[color];
    entry.prepend(dot);
    element.append(entry);
  }
  if (legend.ramp) element.append(rampOf(legend.ramp, legend.ticks ?? [], palette));
  return element;
}

/**
 * @param {number[]} ramp
 * @param {{text: string, at: number}[]} ticks
 * @param {string[]} palette
 */
function rampOf(ramp, ticks, palette) {
  const box = make("span", "ramp");
  const bar = make("i");
  bar.style.background = `linear-gradient(to right, ${ramp.map((color) => palette[color]).join(",")})`;
  const scale = make("span", "ticks");
  for (const { text, at } of ticks) {
    const tick = make("span", "", text);
    tick.style.left = `${100 * at}%`;
    scale.append(tick);
  }
  box.append(bar, scale);
  return box;
}

export class Tip {
  constructor() {
    this.element = make("div", "tip");
    this.element.hidden = true;
  }

  /**
   * @param {[string, string][]} lines name and text of each
   * @param {{x: number, y: number}} at
   * @param {{width: number, height: number}} room
   */
  show(lines, at, room) {
    this.element.replaceChildren(
      ...lines.map(([name, text]) => {
        const line = make("div");
        if (name) line.append(make("span", "", name));
        const value = make("bdi", "", text);
        line.append(value);
        return line;
      }),
    );
    this.element.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = at.x + 14 + width > room.width ? Math.max(0, at.x - 14 - width) : at.x + 14;
    const top = at.y + 14 + height > room.height ? Math.max(0, at.y - 14 - height) : at.y + 14;
    this.element.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  hide() {
    this.element.hidden = true;
  }
}
