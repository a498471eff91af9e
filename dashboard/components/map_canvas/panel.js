// @ts-check
// One panel of a map: its canvas, what is drawn on it, and what pointers and keys do there.

import { paint } from "./paint.js";
import { pointRadius } from "./view.js";

const CLICK = 5; // CSS pixels that a pointer may move during a click
const REACH = { mouse: 9, pen: 12, touch: 18 }; // how far from a point a click still means it, in CSS pixels
const MOST_PIXELS = 8e6;
const ROOM = 14000; // square CSS pixels for a cluster's name, at least
const STEP = 0.1; // of the panel, moved by an arrow key

/**
 * @typedef {import("./points.js").Place} Place
 * @typedef {import("./map.js").AtomMap} AtomMap
 */

export class Panel {
  /**
   * @param {AtomMap} map
   * @param {{title: string, start: number, stop: number}} part the points that it shows
   */
  constructor(map, part) {
    this.map = map;
    this.part = part;
    this.element = document.createElement("figure");
    this.title = this.element.appendChild(document.createElement("figcaption"));
    this.canvas = this.element.appendChild(document.createElement("canvas"));
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    /** @type {ImageData | null} */
    this.image = null;
    this.stale = true;
    /** @type {Map<number, Place>} */
    this.pointers = new Map();
    /** @type {Place[] | null} */
    this.line = null; // of a lasso that is being drawn, on the map
    this.moved = 0;
    this.pinched = false;
    this.focused = false;
    this.rename(part);
    this.#listen();
  }

  /** @param {{title: string, start: number, stop: number}} part */
  rename(part) {
    this.part = part;
    this.title.textContent = part.title;
    this.title.hidden = !part.title;
    const keys = "Arrow keys move, plus and minus zoom, 0 shows all, Enter chooses the feature in the middle, A lists all in view, Escape clears.";
    this.canvas.setAttribute("aria-label", `Map of features${part.title ? `, ${part.title}` : ""}. ${keys}`);
  }

  // Drawing

  /** Take the size that the page gives; whether it has changed. */
  measure() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return false;
    const sharp = Math.min(devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (box.width * box.height)));
    const [width, height] = [Math.round(box.width * sharp), Math.round(box.height * sharp)];
    this.map.view.width = box.width;
    this.map.view.height = box.height;
    this.sharp = width / box.width;
    if (this.image?.width === width && this.image.height === height) return false;
    [this.canvas.width, this.canvas.height] = [width, height];
    this.image = this.context.createImageData(width, height);
    this.stale = true;
    return true;
  }

  draw() {
    const { points, view } = this.map;
    if (!points || !this.image) return;
    if (this.stale) {
      const scene = { ...this.map.scene, points, start: this.part.start, stop: this.part.stop };
      const origin = view.toScreen({ x: 0, y: 0 });
      scene.radius = pointRadius(this.part.stop - this.part.start, view.zoom) * this.sharp;
      const pixels = new Uint32Array(this.image.data.buffer);
      paint({ pixels, width: this.image.width, height: this.image.height }, scene, {
        scale: view.scale * this.sharp,
        left: origin.x * this.sharp,
        top: origin.y * this.sharp,
      });
      this.stale = false;
    }
    const context = this.context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(this.image, 0, 0);
    context.setTransform(this.sharp, 0, 0, this.sharp, 0, 0);
    this.#names();
    this.map.marks.forEach((point) => this.#ring(point, this.map.theme.mark, 7, 2));
    this.#ring(this.map.hovered, this.map.theme.text, 6, 1.2);
    this.#ring(this.map.chosen, this.map.theme.text, 8, 2.5);
    this.#lasso();
    if (this.focused) this.#cross();
  }

  #names() {
    const { view, theme, names } = this.map;
    const context = this.context;
    context.font = `600 12px ${theme.font}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    /** @type {number[][]} */
    const taken = [];
    for (const name of names) {
      const at = view.toScreen(name);
      const half = context.measureText(name.text).width / 2 + 4;
      const box = [at.x - half, at.y - 9, at.x + half, at.y + 9];
      const outside = box[0] < 0 || box[1] < 0 || box[2] > view.width || box[3] > view.height;
      if (outside || taken.some((b) => b[0] < box[2] && box[0] < b[2] && b[1] < box[3] && box[1] < b[3])) continue;
      taken.push(box);
      context.strokeStyle = theme.background;
      context.lineWidth = 4;
      context.strokeText(name.text, at.x, at.y);
      context.fillStyle = theme.text;
      context.fillText(name.text, at.x, at.y);
      if (taken.length * ROOM > view.width * view.height) return;
    }
  }

  /**
   * @param {number} point
   * @param {string} color
   * @param {number} radius
   * @param {number} width
   */
  #ring(point, color, radius, width) {
    const { points, view, theme } = this.map;
    if (!points || point < this.part.start || point >= this.part.stop) return;
    const at = view.toScreen({ x: points.x[point], y: points.y[point] });
    const context = this.context;
    for (const [style, more] of /** @type {[string, number][]} */ ([[theme.background, 3], [color, 0]])) {
      context.beginPath();
      context.arc(at.x, at.y, radius, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = width + more;
      context.stroke();
    }
  }

  #lasso() {
    const line = this.line ?? this.map.line;
    if (!line?.length) return;
    const context = this.context;
    context.beginPath();
    line.forEach((place, k) => {
      const at = this.map.view.toScreen(place);
      if (k) context.lineTo(at.x, at.y);
      else context.moveTo(at.x, at.y);
    });
    context.closePath();
    context.globalAlpha = 0.08;
    context.fillStyle = this.map.theme.text;
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = this.map.theme.text;
    context.lineWidth = 1.2;
    context.setLineDash([5, 4]);
    context.stroke();
    context.setLineDash([]);
  }

  /** Where Enter would choose. */
  #cross() {
    const { view, theme } = this.map;
    const [x, y] = [view.width / 2, view.height / 2];
    this.context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      this.context.moveTo(x + 5 * dx, y + 5 * dy);
      this.context.lineTo(x + 12 * dx, y + 12 * dy);
    }
    this.context.strokeStyle = theme.text;
    this.context.lineWidth = 1.5;
    this.context.stroke();
  }

  // Pointers and keys

  #listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#forget(event));
    canvas.addEventListener("pointerleave", () => this.map.hover(-1));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#focus(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => this.#focus(false));
  }

  /** @param {boolean} focused */
  #focus(focused) {
    this.focused = focused;
    this.map.refresh();
  }

  /** @param {PointerEvent | WheelEvent} event */
  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    this.canvas.setPointerCapture?.(event.pointerId);
    this.pointers.set(event.pointerId, this.#place(event));
    this.map.hover(-1);
    if (this.pointers.size === 1) {
      this.moved = 0;
      this.pinched = false;
      this.line = this.map.tool === "lasso" || event.shiftKey ? [this.map.view.toMap(this.#place(event))] : null;
    } else {
      this.pinched = true;
      this.line = null;
    }
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const view = this.map.view;
    const at = this.#place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") this.map.hover(this.#under(at, REACH.mouse), this, at);
      return;
    }
    this.moved += Math.hypot(at.x - before.x, at.y - before.y);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, at);
    if (this.line) {
      this.line.push(view.toMap(at));
      this.map.refresh();
    } else if (other) {
      // The middle of both fingers is dragged, and their distance zooms.
      const [was, is] = [Math.hypot(before.x - other.x, before.y - other.y), Math.hypot(at.x - other.x, at.y - other.y)];
      view.pan((at.x - before.x) / 2, (at.y - before.y) / 2);
      if (was > 0 && is > 0) view.zoomAt(is / was, { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 });
      this.map.repaint();
    } else {
      view.pan(at.x - before.x, at.y - before.y);
      this.map.repaint();
    }
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const line = this.line;
    this.#forget(event);
    if (this.pinched) return;
    if (this.moved < CLICK) {
      const reach = event.pointerType in REACH ? REACH[/** @type {"mouse"} */ (event.pointerType)] : REACH.mouse;
      this.map.choose(this.#under(this.#place(event), reach), this.part);
    } else if (line) {
      this.map.encircle(line, this.part);
    }
  }

  /** @param {PointerEvent} event */
  #forget(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.line = null;
    this.map.refresh();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    this.map.view.zoomAt(Math.exp(-0.0016 * lines * event.deltaY), this.#place(event));
    this.map.repaint();
  }

  /**
   * The shown point under a pixel, or -1.
   * @param {Place} pixel
   * @param {number} reach in CSS pixels
   */
  #under(pixel, reach) {
    const view = this.map.view;
    return this.map.nearest(view.toMap(pixel), reach / view.scale, this.part);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { view } = this.map;
    const [w, h] = [STEP * view.width, STEP * view.height];
    const middle = { x: view.width / 2, y: view.height / 2 };
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowLeft: () => view.pan(w, 0),
      ArrowRight: () => view.pan(-w, 0),
      ArrowUp: () => view.pan(0, h),
      ArrowDown: () => view.pan(0, -h),
      "+": () => view.zoomAt(1.4, middle),
      "=": () => view.zoomAt(1.4, middle),
      "-": () => view.zoomAt(1 / 1.4, middle),
      0: () => view.reset(),
      Enter: () => this.map.choose(this.#under(middle, Math.max(view.width, view.height)), this.part),
      a: () => this.map.takeView(this.part),
      Escape: () => this.map.clear(),
    };
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    this.focused = true;
    action();
    this.map.repaint();
  }
}
