// @ts-check
// The points of a map: where they are, what is known of them, and which of them lie near a place or inside a lasso.

/** Places are numbers from 0 to `EDGE` in both directions. */
export const EDGE = 65535;
const SIDE = 256; // cells of the grid in each direction

/**
 * What is known of the points in words: each point has one of the values.
 * @typedef {{title: string, values: string[], index: string}} ColumnData
 * @typedef {{key: string, count: number, x: string, y: string, columns: ColumnData[]}} PointsData
 * @typedef {{title: string, values: string[], at: Uint32Array}} Column
 * @typedef {{x: number, y: number}} Place
 */

/**
 * The bytes of a base64 text.
 * @param {string} text
 */
export function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/**
 * The base64 text of flags (0 or 1), eight in a byte, the first one in the highest bit.
 * @param {Uint8Array} flags
 */
export function packed(flags) {
  const bytes = new Uint8Array(Math.ceil(flags.length / 8));
  for (let i = 0; i < flags.length; i++) if (flags[i]) bytes[i >> 3] |= 128 >> (i & 7);
  let raw = "";
  for (let i = 0; i < bytes.length; i += 8192) raw += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(raw);
}

/**
 * The inverse of `packed`.
 * @param {string} text
 * @param {number} count
 */
export function unpacked(text, count) {
  const bytes = bytesOf(text);
  const flags = new Uint8Array(count);
  for (let i = 0; i < count; i++) flags[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return flags;
}

/**
 * How many flags are set.
 * @param {Uint8Array} flags
 */
export function total(flags) {
  let sum = 0;
  for (let i = 0; i < flags.length; i++) sum += flags[i];
  return sum;
}

export class Points {
  /** @param {PointsData} data */
  constructor(data) {
    this.count = data.count;
    this.x = new Uint16Array(bytesOf(data.x).buffer);
    this.y = new Uint16Array(bytesOf(data.y).buffer);
    /** @type {Column[]} */
    this.columns = data.columns.map(({ title, values, index }) => ({
      title,
      values,
      at: new Uint32Array(bytesOf(index).buffer),
    }));
    /** @type {string[][] | null} */
    this.lowered = null;
    this.#sortIntoCells();
  }

  /**
   * Numbers of the points, cell by cell: those of cell c are order[starts[c]] to order[starts[c + 1] - 1]. Within a
   * cell they are scattered, so that painting in this order puts no member on top of all others.
   */
  #sortIntoCells() {
    const cells = new Uint32Array(this.count);
    this.starts = new Uint32Array(SIDE * SIDE + 1);
    for (let i = 0; i < this.count; i++) {
      cells[i] = (this.y[i] >> 8) * SIDE + (this.x[i] >> 8);
      this.starts[cells[i] + 1]++;
    }
    for (let c = 0; c < SIDE * SIDE; c++) this.starts[c + 1] += this.starts[c];
    const next = this.starts.slice();
    this.order = new Uint32Array(this.count);
    const step = stride(this.count);
    for (let n = 0, i = 0; n < this.count; n++, i = (i + step) % this.count) this.order[next[cells[i]]++] = i;
  }

  /**
   * Call with the first place in `order` and the one after the last, for every row of cells that reaches into a
   * rectangle of the map.
   * @param {{left: number, right: number, bottom: number, top: number}} ends
   * @param {(first: number, last: number) => void} call
   */
  eachRun(ends, call) {
    const [left, right] = [cellOf(ends.left), cellOf(ends.right)];
    for (let row = cellOf(ends.bottom); row <= cellOf(ends.top); row++) {
      call(this.starts[row * SIDE + left], this.starts[row * SIDE + right + 1]);
    }
  }

  /**
   * The point nearest to a place within a radius, or -1; the first one of several at the same place.
   * @param {Place} place
   * @param {number} radius
   * @param {(point: number) => boolean} counts whether a point is shown at all
   */
  nearest({ x, y }, radius, counts) {
    let best = -1;
    let least = radius * radius;
    this.eachRun({ left: x - radius, right: x + radius, bottom: y - radius, top: y + radius }, (first, last) => {
      for (let k = first; k < last; k++) {
        const i = this.order[k];
        const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
        const nearer = distance < least || (distance === least && (best < 0 || i < best));
        if (nearer && counts(i)) [best, least] = [i, distance];
      }
    });
    return best;
  }

  /**
   * Which points lie inside a closed line (even-odd rule), as flags.
   * @param {Place[]} line
   * @param {(point: number) => boolean} counts whether a point is shown at all
   */
  inside(line, counts) {
    const flags = new Uint8Array(this.count);
    if (line.length < 3) return flags;
    const left = cellOf(Math.min(...line.map((p) => p.x)));
    const right = cellOf(Math.max(...line.map((p) => p.x)));
    const top = cellOf(Math.min(...line.map((p) => p.y)));
    const bottom = cellOf(Math.max(...line.map((p) => p.y)));
    for (let row = top; row <= bottom; row++) {
      // Only these edges can be crossed by a ray from a point in this row of cells.
      const edges = edgesBetween(line, row * 256, row * 256 + 255);
      for (let k = this.starts[row * SIDE + left]; k < this.starts[row * SIDE + right + 1]; k++) {
        const i = this.order[k];
        if (crossings(edges, this.x[i], this.y[i]) % 2 && counts(i)) flags[i] = 1;
      }
    }
    return flags;
  }

  /**
   * Which points fit a search, as flags: every word occurs in a column or names the point, by its number or, as `1:6`,
   * by its member and the number within that (see `numbering.named`).
   * @param {string} text
   * @param {(point: number) => {number: number, member: number, latent: number}} place
   */
  search(text, place) {
    const flags = new Uint8Array(this.count);
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return flags;
    flags.fill(1);
    this.lowered ??= this.columns.map((column) => column.values.map((value) => value.toLowerCase()));
    for (const word of words) {
      const found = new Uint8Array(this.count);
      this.columns.forEach(({ at }, c) => {
        const hit = Uint8Array.from(this.lowered?.[c] ?? [], (value) => (value.includes(word) ? 1 : 0));
        for (let i = 0; i < this.count; i++) found[i] |= hit[at[i]];
      });
      const [, first, within] = /^(\d{1,12})(?::(\d{1,12}))?$/.exec(word) ?? [];
      /** @param {number} i */
      const isNamed = (i) => {
        const { number, member, latent } = place(i);
        return within === undefined ? String(number) === first : member === Number(first) && latent === Number(within);
      };
      for (let i = 0; i < this.count; i++) flags[i] &= found[i] || (first !== undefined && isNamed(i)) ? 1 : 0;
    }
    return flags;
  }
}

/**
 * The cell, in one direction, of a coordinate that may lie outside the map.
 * @param {number} value
 */
function cellOf(value) {
  return Math.min(SIDE - 1, Math.max(0, Math.floor(value / 256)));
}

/**
 * The edges of a closed line that reach into a band, four numbers each.
 * @param {Place[]} line
 * @param {number} low
 * @param {number} high
 */
function edgesBetween(line, low, high) {
  const edges = [];
  for (let k = 0; k < line.length; k++) {
    const a = line[k];
    const b = line[(k + 1) % line.length];
    if (Math.min(a.y, b.y) <= high && Math.max(a.y, b.y) >= low) edges.push(a.x, a.y, b.x, b.y);
  }
  return edges;
}

/**
 * How many edges a ray from a place to the right crosses.
 * @param {number[]} edges
 * @param {number} x
 * @param {number} y
 */
function crossings(edges, x, y) {
  let count = 0;
  for (let k = 0; k < edges.length; k += 4) {
    const ay = edges[k + 1];
    const by = edges[k + 3];
    if (ay > y !== by > y && x < ((edges[k + 2] - edges[k]) * (y - ay)) / (by - ay) + edges[k]) count++;
  }
  return count;
}

/**
 * A stride that visits all of `count` numbers in a scattered order.
 * @param {number} count
 */
export function stride(count) {
  let step = Math.max(1, Math.floor(count * 0.6180339887));
  while (divisor(step, count) > 1) step++;
  return step;
}

/**
 * @param {number} a
 * @param {number} b
 * @returns {number}
 */
function divisor(a, b) {
  return b === 0 ? a : divisor(b, a % b);
}
