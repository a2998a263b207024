/** From a photograph to what the network takes: the shorter side resized, the centre cropped. */

import {readOrientation} from './exif.js';
import {Problem} from './problem.js';
import {filterTaps, resizeLine} from './resize.js';

/** @typedef {import('./classifier.js').InputFormat} InputFormat */
/** @typedef {import('./model_file.js').Preprocessing} Preprocessing */

/**
 * @typedef {object} Photo
 * @property {ImageBitmap} bitmap As it is stored.
 * @property {number} orientation How it is to be turned, as EXIF numbers it: 1 for not at all.
 */

/** What turns a stored image of w x h for each EXIF orientation: the arguments of `setTransform`. */
const TURNS = [
  null,
  (w, h) => [1, 0, 0, 1, 0, 0],
  (w, h) => [-1, 0, 0, 1, w, 0],
  (w, h) => [-1, 0, 0, -1, w, h],
  (w, h) => [1, 0, 0, -1, 0, h],
  (w, h) => [0, 1, 1, 0, 0, 0],
  (w, h) => [0, 1, -1, 0, h, 0],
  (w, h) => [0, -1, -1, 0, h, w],
  (w, h) => [0, -1, 1, 0, 0, w],
];

// A photograph is read through the canvas in bands of so many rows, as phones limit the size of a canvas.
const BAND = 256;

const canvas = document.createElement('canvas');
// Kept in main memory, as its pixels are read back. Without alpha, what is transparent is black.
const context = canvas.getContext('2d', {alpha: false, willReadFrequently: true});

/**
 * @param {Blob} file
 * @param {string} name For the message.
 * @param {Preprocessing} preprocessing
 * @returns {Promise<Photo>} Colour profiles are left alone, as Pillow and TensorFlow leave them.
 */
export async function decodePhoto(file, name, {orientation}) {
  try {
    const found = readOrientation(new Uint8Array(await file.arrayBuffer()));
    const bitmap = await createImageBitmap(found.stored, {colorSpaceConversion: 'none'});
    return {bitmap, orientation: orientation === 'exif' ? found.orientation : 1};
  } catch {
    throw new Problem(`${name} is not a photograph that this browser can read. JPEG, PNG and WebP are.`);
  }
}

/**
 * @param {Photo} photo
 * @param {InputFormat} format
 * @param {Preprocessing} preprocessing
 * @returns {Float32Array | Uint8Array} What the network takes, row by row, channels last.
 */
export function toInput({bitmap, orientation}, {height, width, channels, dtype}, {crop_pct, interpolation, mean, std}) {
  const isSwapped = orientation >= 5;
  const photo = {
    width: isSwapped ? bitmap.height : bitmap.width,
    height: isSwapped ? bitmap.width : bitmap.height,
  };
  // One side gets the least length, and the longer one is truncated.
  const leastHeight = Math.floor(height / crop_pct);
  const leastWidth = Math.floor(width / crop_pct);
  const isWide = photo.width * leastHeight >= photo.height * leastWidth;
  const resizedWidth = isWide ? Math.floor((photo.width * leastHeight) / photo.height) : leastWidth;
  const resizedHeight = isWide ? leastHeight : Math.floor((photo.height * leastWidth) / photo.width);
  const across = filterTaps(interpolation, photo.width, resizedWidth, halved(resizedWidth - width), width);
  const down = filterTaps(interpolation, photo.height, resizedHeight, halved(resizedHeight - height), height);

  const stride = width * channels;
  const narrow = new Uint8ClampedArray(photo.height * stride);
  canvas.width = photo.width;
  canvas.height = Math.min(BAND, photo.height);
  for (let top = 0; top < photo.height; top += BAND) {
    const rows = Math.min(BAND, photo.height - top);
    const [a, b, c, d, x, y] = TURNS[orientation](bitmap.width, bitmap.height);
    context.setTransform(a, b, c, d, x, y - top);
    context.drawImage(bitmap, 0, 0);
    const rgba = context.getImageData(0, 0, photo.width, rows).data;
    if (channels === 1) toGrey(rgba);
    for (let row = 0; row < rows; row++) {
      for (let channel = 0; channel < channels; channel++) {
        resizeLine(
          across, rgba, 4 * row * photo.width + channel, 4, narrow, (top + row) * stride + channel, channels
        );
      }
    }
  }
  const small = new Uint8ClampedArray(height * stride);
  for (let i = 0; i < stride; i++) resizeLine(down, narrow, i, stride, small, i, stride);
  if (mean) return Float32Array.from(small, (value, i) => normalized(value, mean[i % channels], std[i % channels]));
  return dtype === 'uint8' ? Uint8Array.from(small) : Float32Array.from(small);
}

/** In single precision at every step, as NumPy. */
function normalized(value, mean, std) {
  const {fround} = Math;
  return fround(fround(value / 255) - fround(mean)) / fround(std);
}

/**
 * @param {number} margin
 * @returns {number} Half of it; one half rounds to the even number, as in Python, for the same crop.
 */
function halved(margin) {
  const lower = Math.floor(margin / 2);
  return margin % 2 && lower % 2 ? lower + 1 : lower;
}

/**
 * Puts the luma of ITU-R BT.601 in place of red, in 16-bit fixed point as Pillow's convert("L").
 *
 * @param {Uint8ClampedArray} rgba
 */
function toGrey(rgba) {
  for (let i = 0; i < rgba.length; i += 4) {
    rgba[i] = (19595 * rgba[i] + 38470 * rgba[i + 1] + 7471 * rgba[i + 2] + 32768) >> 16;
  }
}
