/**
 * Resizing with antialiasing, as Pillow does it: the canvas' own smoothing is another at every factor,
 * and at large ones loses what is on the photograph.
 *
 * Formula: R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2;
 * when shrinking, the kernel is stretched to cover what each pixel of the result stands for.
 */

// Pillow's weights are whole multiples of 1 / ONE, so that every result can be computed to the same bit.
const ONE = 2 ** 22;

/** How far each filter reaches, and its weight at a distance. */
const FILTERS = {
  bicubic: {radius: 2, weight: cubic},
  bilinear: {radius: 1, weight: (x) => Math.max(0, 1 - Math.abs(x))},
  lanczos: {radius: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)},
};

/**
 * @typedef {object} Taps
 * @property {number} start The first pixel of the source that counts.
 * @property {Float64Array} weights Of it and those after it, in units of 1 / ONE; their sum is about ONE.
 */

/**
 * @param {'bicubic' | 'bilinear' | 'lanczos' | 'nearest'} interpolation
 * @param {number} size Of the source along one axis, in pixels.
 * @param {number} resized Of the whole result.
 * @param {number} first The first pixel of the result that is wanted.
 * @param {number} count How many are.
 * @returns {Taps[]} One for each pixel of the result.
 */
export function filterTaps(interpolation, size, resized, first, count) {
  const scale = size / resized;
  if (interpolation === 'nearest') return nearestTaps(scale, first, count);
  const {radius, weight} = FILTERS[interpolation];
  const stretch = Math.max(scale, 1);
  const shrink = 1 / stretch;
  return Array.from({length: count}, (_, i) => {
    const centre = (first + i + 0.5) * scale;
    const start = Math.max(0, Math.floor(centre - radius * stretch + 0.5));
    const end = Math.min(size, Math.floor(centre + radius * stretch + 0.5));
    const weights = Float64Array.from({length: end - start}, (_, j) => weight((start + j - centre + 0.5) * shrink));
    const sum = weights.reduce((a, b) => a + b);
    return {start, weights: weights.map((weight) => rounded((weight / sum) * ONE))};
  });
}

/** A sum, as in Pillow: its rounding decides where a centre falls on the edge of two pixels. */
function nearestTaps(scale, first, count) {
  const taps = [];
  for (let i = 0, centre = scale / 2; i < first + count; i++, centre += scale) {
    if (i >= first) taps.push({start: Math.floor(centre), weights: Float64Array.of(ONE)});
  }
  return taps;
}

/** @param {number} x */
function rounded(x) {
  return Math.trunc(x < 0 ? x - 0.5 : x + 0.5);
}

/** @param {number} x */
function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  if (d < 2) return -0.5 * (((d - 5) * d + 8) * d - 4);
  return 0;
}

/** @param {number} x */
function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/**
 * Resizes along one axis.
 *
 * @param {Taps[]} taps One for each pixel of a line of the result.
 * @param {Uint8ClampedArray} source
 * @param {number} from Where the source's line begins in it.
 * @param {number} step From one pixel of the source's line to the next.
 * @param {Uint8ClampedArray} result
 * @param {number} to Where the result's line begins in it.
 * @param {number} resultStep From one pixel of the result's line to the next.
 */
export function resizeLine(taps, source, from, step, result, to, resultStep) {
  for (let i = 0; i < taps.length; i++) {
    const {start, weights} = taps[i];
    let sum = ONE / 2;
    for (let j = 0; j < weights.length; j++) sum += weights[j] * source[from + (start + j) * step];
    result[to + i * resultStep] = Math.floor(sum / ONE);
  }
}
