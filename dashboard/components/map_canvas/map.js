// @ts-check
// The map of atoms as a Streamlit component: keeps its points between reruns, and tells Python what people choose.

import { Tip, Tools, legendOf, make } from "./chrome.js";
import { pixelOf } from "./paint.js";
import { Panel } from "./panel.js";
import { Points, bytesOf, packed, total, unpacked } from "./points.js";
import { View } from "./view.js";

/**
 * @typedef {import("./points.js").PointsData} PointsData
 * @typedef {import("./points.js").Place} Place
 * @typedef {{title: string, start: number, stop: number}} Part
 * @typedef {{name: string, index: string, palette: string[], legend: import("./chrome.js").Legend, front: number[]}} ColorData
 * @typedef {{
 *   kind: "map", points: string, parts: {title: string, start: number, base: number, member: number}[], panels: Part[],
 *   color: ColorData, hidden: string | null, names: {text: string, x: number, y: number}[],
 *   feature: number, marks: number[], query: string, accent: string,
 * }} MapData
 * @typedef {{
 *   data: MapData | ({kind: "points"} & PointsData), parentElement: HTMLElement | ShadowRoot,
 *   setStateValue: (name: string, value: unknown) => void,
 * }} Component
 */

const KEPT = 4; // sets of points at a time

/** @type {Map<string, Points>} */
const stored = new Map();
/** @type {Set<AtomMap>} */
const open = new Set();
/** @type {WeakMap<object, AtomMap>} */
const maps = new WeakMap();

/**
 * Called by Streamlit when the component is mounted and whenever its data or the theme change. Points come in a message
 * of their own, which is sent once, so that what changes at a click stays small.
 * @param {Component} component
 */
export default function (component) {
  const { data, parentElement } = component;
  if (data.kind === "points") {
    if (!stored.has(data.key)) stored.set(data.key, new Points(data));
    for (const key of [...stored.keys()].slice(0, -KEPT)) stored.delete(key);
    open.forEach((map) => map.arrive());
    return undefined;
  }
  const map = maps.get(parentElement) ?? new AtomMap(parentElement);
  maps.set(parentElement, map);
  map.update(data, component.setStateValue);
  return () => {
    map.close();
    maps.delete(parentElement);
  };
}

export class AtomMap {
  /** @param {HTMLElement | ShadowRoot} parent */
  constructor(parent) {
    this.view = new View();
    this.tools = new Tools(this);
    this.tip = new Tip();
    this.stage = make("div", "stage");
    this.stage.append(this.tip.element);
    this.legend = make("div");
    this.root = make("div", "map");
    this.root.append(this.tools.element, this.stage, this.legend);
    parent.append(this.root);
    /** @type {Panel[]} */
    this.panels = [];
    /** @type {Points | null} */
    this.points = null;
    /** @type {MapData | null} */
    this.data = null;
    this.tool = "move";
    this.chosen = this.hovered = -1;
    /** @type {number[]} */
    this.sent = []; // clicks that Python has not answered
    /** @type {Set<number>} */
    this.off = new Set();
    /** @type {Uint8Array | null} */
    this.lit = null;
    this.litBy = "";
    this.listed = false;
    /** @type {Place[] | null} */
    this.line = null;
    this.frame = 0;
    this.resized = new ResizeObserver(() => this.repaint());
    this.resized.observe(this.stage);
    open.add(this);
  }

  close() {
    this.resized.disconnect();
    cancelAnimationFrame(this.frame);
    this.root.remove();
    open.delete(this);
  }

  // What comes from Python

  /**
   * @param {MapData} data
   * @param {Component["setStateValue"]} send
   */
  update(data, send) {
    const before = this.data;
    this.data = data;
    this.send = send;
    this.theme = this.#theme(data.accent);
    if (before?.color.name !== data.color.name) this.off.clear();
    if (before?.points !== data.points) this.points = null;
    this.marks = data.marks;
    this.names = data.names;
    this.#follow(data.feature);
    if (!before) this.tools.search.value = data.query;
    this.#arrange(data.panels);
    this.arrive();
  }

  /**
   * Choose what Python says, unless it is only the answer to a click that another one has followed.
   * @param {number} feature
   */
  #follow(feature) {
    const place = this.sent.indexOf(feature);
    this.sent.splice(0, place + 1);
    if (place < 0) this.sent.length = 0;
    if (!this.sent.length) this.chosen = feature;
  }

  /** Points may come after the map that shows them. */
  arrive() {
    if (!this.data) return;
    const first = !this.points;
    this.points ??= stored.get(this.data.points) ?? null;
    if (!this.points) return;
    if (first) {
      [this.lit, this.line] = [null, null];
      if (this.tools.search.value) this.seek(this.tools.search.value);
    }
    this.#color();
  }

  /** @param {Part[]} parts */
  #arrange(parts) {
    while (this.panels.length > parts.length) this.panels.pop()?.element.remove();
    parts.forEach((part, k) => {
      if (k === this.panels.length) {
        this.panels.push(new Panel(this, part));
        this.stage.insertBefore(this.panels[k].element, this.tip.element);
      }
      this.panels[k].rename(part);
    });
  }

  #color() {
    const { data, points } = this;
    if (!data || !points) return;
    const { palette, legend, index, front } = data.color;
    this.colors = Uint32Array.from(palette, pixelOf);
    this.colorOf = bytesOf(index);
    this.front = Uint8Array.from({ length: 256 }, (_, color) => (front.includes(color) ? 1 : 0));
    this.hidden = data.hidden ? unpacked(data.hidden, points.count) : new Uint8Array(points.count);
    if (this.off.size) for (let i = 0; i < points.count; i++) if (this.off.has(this.colorOf[i])) this.hidden[i] = 1;
    this.legend.replaceChildren(legendOf(legend, palette, this.off, (color) => this.#toggle(color)));
    this.repaint();
  }

  /** @param {number} color */
  #toggle(color) {
    if (!this.off.delete(color)) this.off.add(color);
    this.#color();
  }

  /** @param {string} accent */
  #theme(accent) {
    const style = getComputedStyle(this.root);
    const text = hex(style.getPropertyValue("--st-text-color"), "#31333f");
    const background = hex(style.getPropertyValue("--st-background-color"), "#ffffff");
    return { text, background, mark: accent, font: style.getPropertyValue("--st-font") || "sans-serif" };
  }

  /** What all panels have in common; each adds its points. */
  get scene() {
    return {
      colors: this.colors ?? new Uint32Array(1),
      colorOf: this.colorOf ?? new Uint8Array(0),
      front: this.front ?? new Uint8Array(256),
      hidden: this.hidden ?? new Uint8Array(0),
      lit: this.lit,
      background: pixelOf(this.theme?.background ?? "#ffffff"),
      radius: 1,
    };
  }

  // Drawing

  /** Paint the points anew at the next frame. */
  repaint() {
    this.panels.forEach((panel) => (panel.stale = true));
    this.refresh();
  }

  /** Draw at the next frame; points that have not moved are not painted anew. */
  refresh() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.panels.forEach((panel) => panel.measure());
      this.panels.forEach((panel) => panel.draw());
      this.tools.show(this.tool, this.lit !== null, this.#status());
      if (this.points) this.root.dataset.drawn = String(this.points.count);
    });
  }

  #status() {
    if (this.lit) return `${total(this.lit).toLocaleString("en")} highlighted${this.listed ? ", listed below" : ""}`;
    return this.chosen >= 0 && this.points ? this.lines(this.chosen)[0][1] : "";
  }

  // What people do

  /** @param {string} tool */
  use(tool) {
    this.tool = tool;
    this.stage.classList.toggle("drawing", tool === "lasso");
    this.refresh();
  }

  /** @param {number} factor 0 shows the whole map */
  zoom(factor) {
    if (factor) this.view.zoomAt(factor, { x: this.view.width / 2, y: this.view.height / 2 });
    else this.view.reset();
    this.repaint();
  }

  /**
   * @param {Place} place
   * @param {number} radius
   * @param {Part} part
   */
  nearest(place, radius, part) {
    return this.points?.nearest(place, radius, this.#shown(part)) ?? -1;
  }

  /**
   * @param {Part} part
   * @returns {(point: number) => boolean}
   */
  #shown({ start, stop }) {
    const hidden = this.hidden ?? new Uint8Array(0);
    return (i) => i >= start && i < stop && !hidden[i];
  }

  /**
   * @param {number} point
   * @param {Panel} [panel]
   * @param {Place} [at]
   */
  hover(point, panel, at) {
    if (point >= 0 && panel && at) {
      const { offsetLeft: left, offsetTop: top } = panel.canvas;
      const room = { width: this.stage.clientWidth, height: this.stage.clientHeight };
      this.tip.show(this.lines(point), { x: at.x + left, y: at.y + top }, room);
    } else {
      this.tip.hide();
    }
    if (this.hovered === point) return;
    this.hovered = point;
    this.refresh();
  }

  /**
   * What is known of a point: its number and member, then its texts.
   * @param {number} point
   * @returns {[string, string][]}
   */
  lines(point) {
    const part = this.#partOf(point);
    /** @type {[string, string][]} */
    const lines = [["", `Feature ${(point - part.base).toLocaleString("en")} · ${part.title}`]];
    for (const { title, values, at } of this.points?.columns ?? []) {
      if (values[at[point]]) lines.push([title, values[at[point]]]);
    }
    return lines;
  }

  /** @param {number} point */
  #partOf(point) {
    const parts = this.data?.parts ?? [];
    return parts.findLast((part) => part.start <= point) ?? { title: "", start: 0, base: 0, member: 0 };
  }

  /**
   * @param {number} point
   * @param {Part} part where it was chosen
   */
  choose(point, part) {
    if (point < 0 || point < part.start || point >= part.stop) return;
    if (point === this.chosen) return;
    this.chosen = point;
    this.sent.push(point);
    this.refresh();
    this.send?.("feature", point);
  }

  /**
   * @param {Place[]} line
   * @param {Part} part
   */
  encircle(line, part) {
    if (!this.points) return;
    this.line = line;
    this.#light(this.points.inside(line, this.#shown(part)), "lasso");
    this.listLit();
  }

  /** All points of a part that are in view. @param {Part} part */
  takeView(part) {
    const [a, b] = [this.view.toMap({ x: 0, y: 0 }), this.view.toMap({ x: this.view.width, y: this.view.height })];
    this.encircle([a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }], part);
  }

  /** @param {string} text */
  seek(text) {
    if (!this.points) return;
    if (!text.trim()) return this.clear();
    this.line = null;
    const flags = this.points.search(text, (i) => {
      const part = this.#partOf(i);
      return { number: i - part.base, member: part.member, latent: i - part.start };
    });
    const hidden = this.hidden;
    if (hidden) for (let i = 0; i < flags.length; i++) if (hidden[i]) flags[i] = 0;
    this.#light(flags, `search ${text.trim()}`);
  }

  /**
   * @param {Uint8Array} flags
   * @param {string} by
   */
  #light(flags, by) {
    this.lit = flags;
    this.litBy = by;
    this.listed = false;
    this.repaint();
  }

  /** Tell Python which features are highlighted. */
  listLit() {
    if (!this.lit) return;
    this.listed = true;
    this.refresh();
    this.send?.("list", { by: this.litBy, points: this.data?.points, bits: packed(this.lit) });
  }

  clear() {
    if (!this.lit) return;
    [this.lit, this.line, this.litBy] = [null, null, ""];
    this.tools.search.value = "";
    this.repaint();
    this.send?.("list", null);
  }
}

/**
 * A CSS colour as #rrggbb.
 * @param {string} color
 * @param {string} otherwise
 */
function hex(color, otherwise) {
  const context = document.createElement("canvas").getContext("2d");
  if (!context || !color.trim()) return otherwise;
  context.fillStyle = color.trim();
  return /^#[0-9a-f]{6}$/.test(context.fillStyle) ? context.fillStyle : otherwise;
}
