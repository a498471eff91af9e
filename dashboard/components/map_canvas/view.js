// @ts-check
// The part of a map that is shown: what panning and zooming do, and where a place lies on the screen.

import { EDGE } from "./points.js";

const FARTHEST = 0.5; // of the zoom at which the whole map is shown
const NEAREST = 400;
const MARGIN = 0.04; // of the panel, left free around the whole map

/** A view of the map in panels of one size: zoom 1 shows all of it. Screen coordinates are CSS pixels. */
export class View {
  constructor() {
    this.width = 1;
    this.height = 1;
    this.reset();
  }

  /** Show all of the map. */
  reset() {
    this.zoom = 1;
    this.centre = { x: EDGE / 2, y: EDGE / 2 };
  }

  /** CSS pixels per unit of the map. */
  get scale() {
    return (this.zoom * (1 - 2 * MARGIN) * Math.min(this.width, this.height)) / EDGE;
  }

  /** @param {import("./points.js").Place} place */
  toScreen({ x, y }) {
    return {
      x: this.width / 2 + (x - this.centre.x) * this.scale,
      y: this.height / 2 - (y - this.centre.y) * this.scale,
    };
  }

  /** @param {import("./points.js").Place} pixel */
  toMap({ x, y }) {
    return {
      x: this.centre.x + (x - this.width / 2) / this.scale,
      y: this.centre.y - (y - this.height / 2) / this.scale,
    };
  }

  /**
   * Move the map by CSS pixels; its middle cannot leave the map.
   * @param {number} dx
   * @param {number} dy
   */
  pan(dx, dy) {
    this.centre = {
      x: Math.min(EDGE, Math.max(0, this.centre.x - dx / this.scale)),
      y: Math.min(EDGE, Math.max(0, this.centre.y + dy / this.scale)),
    };
  }

  /**
   * Zoom by a factor; the place under a pixel stays under it.
   * @param {number} factor
   * @param {import("./points.js").Place} pixel
   */
  zoomAt(factor, pixel) {
    const before = this.toMap(pixel);
    this.zoom = Math.min(NEAREST, Math.max(FARTHEST, this.zoom * factor));
    const after = this.toScreen(before);
    this.pan(pixel.x - after.x, pixel.y - after.y);
  }
}

/**
 * The radius of a point in CSS pixels: smaller the more points there are, larger the closer one looks.
 * @param {number} count
 * @param {number} zoom
 */
export function pointRadius(count, zoom) {
  const base = Math.min(4.5, Math.max(1.1, 4.5 - 0.75 * Math.log2(Math.max(1, count / 1500))));
  return Math.min(7, base * Math.max(1, zoom) ** 0.35);
}
