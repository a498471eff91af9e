// @ts-check
// Points painted into a picture, pixel by pixel: without a GPU this is many times faster than drawing discs.

const OPACITY = 0.82;
const DIMMED = 0.16;
const ABOVE = 0.95; // opacity of points above the others
const LARGER = 1.45; // and their radius, in radii
const WHOLE = 128; // cover of a pixel that is all of one colour; with more, products would not fit into 31 bits

/**
 * @typedef {{
 *   points: import("./points.js").Points,
 *   start: number, stop: number,
 *   colors: Uint32Array, colorOf: Uint8Array, front: Uint8Array, hidden: Uint8Array, lit: Uint8Array | null,
 *   background: number, radius: number,
 * }} Scene What a panel shows: points `start` to `stop` - 1, without the hidden ones. Points of the colours in `front`
 *   are above the others; if points are lit, these are, and the others are dim.
 * @typedef {{scale: number, left: number, top: number}} Placing pixel = (left + scale * x, top - scale * y)
 * @typedef {{pixels: Uint32Array, width: number, height: number}} Picture
 * @typedef {{dx: Int32Array, dy: Int32Array, cover: Int32Array, reach: number}} Disc
 */

/**
 * The pixel value of a CSS colour #rrggbb, opaque.
 * @param {string} text
 */
export function pixelOf(text) {
  const value = parseInt(text.slice(1), 16);
  return ((255 << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

/**
 * The pixels of a disc and how much of each it covers, 0 to `WHOLE`.
 * @param {number} radius in device pixels
 * @param {number} opacity
 * @returns {Disc}
 */
export function disc(radius, opacity) {
  const reach = Math.ceil(radius + 0.5);
  const dx = [];
  const dy = [];
  const cover = [];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const covered = Math.round(WHOLE * opacity * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y))));
      if (covered > 0) {
        dx.push(x);
        dy.push(y);
        cover.push(covered);
      }
    }
  }
  return { dx: Int32Array.from(dx), dy: Int32Array.from(dy), cover: Int32Array.from(cover), reach };
}

/**
 * A colour over another one, both opaque; red and blue are blended in one go.
 * @param {number} below
 * @param {number} above
 * @param {number} cover 0 to `WHOLE`
 */
export function blend(below, above, cover) {
  const rest = WHOLE - cover;
  const redBlue = (Math.imul(below & 0xff00ff, rest) + Math.imul(above & 0xff00ff, cover)) >>> 7;
  const green = (Math.imul((below >>> 8) & 0xff, rest) + Math.imul((above >>> 8) & 0xff, cover)) >>> 7;
  return 0xff000000 | (redBlue & 0xff00ff) | (green << 8);
}

/**
 * Paint a scene.
 * @param {Picture} picture
 * @param {Scene} scene
 * @param {Placing} at
 */
export function paint(picture, scene, at) {
  const { lit, front, radius } = scene;
  picture.pixels.fill(scene.background);
  scatter(picture, scene, at, disc(radius, lit ? DIMMED : OPACITY), 0);
  if (lit || front.includes(1)) scatter(picture, scene, at, disc(LARGER * radius, ABOVE), 1);
}

/**
 * Paint the points that are above the others (layer 1) or not (layer 0), row by row of the cells in view.
 * @param {Picture} picture
 * @param {Scene} scene
 * @param {Placing} at
 * @param {Disc} shape
 * @param {number} layer
 */
function scatter(picture, scene, at, shape, layer) {
  const { width, height } = picture;
  const { points, start, stop, colorOf, front, hidden, lit } = scene;
  const { scale, left, top } = at;
  const margin = shape.reach;
  const offsets = Int32Array.from(shape.dx, (x, k) => x + width * shape.dy[k]);
  const ends = {
    left: (-margin - left) / scale,
    right: (width + margin - left) / scale,
    bottom: (top - height - margin) / scale,
    top: (top + margin) / scale,
  };
  points.eachRun(ends, (first, last) => {
    const { order, x, y } = points;
    for (let k = first; k < last; k++) {
      const i = order[k];
      if (i < start || i >= stop || hidden[i]) continue;
      if ((lit ? lit[i] : front[colorOf[i]]) !== layer) continue;
      const px = Math.floor(left + scale * x[i] + 0.5);
      const py = Math.floor(top - scale * y[i] + 0.5);
      if (px < -margin || py < -margin || px >= width + margin || py >= height + margin) continue;
      stamp(picture, px, py, shape, offsets, scene.colors[colorOf[i]]);
    }
  });
}

/**
 * @param {Picture} picture
 * @param {number} px
 * @param {number} py
 * @param {Disc} shape
 * @param {Int32Array} offsets of its pixels from the one in its middle
 * @param {number} color
 */
function stamp({ pixels, width, height }, px, py, { dx, dy, cover, reach }, offsets, color) {
  const size = cover.length;
  const centre = py * width + px;
  if (px >= reach && py >= reach && px < width - reach && py < height - reach) {
    for (let s = 0; s < size; s++) {
      const place = centre + offsets[s];
      pixels[place] = blend(pixels[place], color, cover[s]);
    }
    return;
  }
  for (let s = 0; s < size; s++) {
    const x = px + dx[s];
    const y = py + dy[s];
    if (x < 0 || y < 0 || x >= width || y >= height) continue;
    const place = centre + offsets[s];
    pixels[place] = blend(pixels[place], color, cover[s]);
  }
}
