/** From a photograph to what the network takes: the shorter side resized, the centre cropped. */

import {Problem} from './problem.js';

/** @typedef {import('./classifier.js').InputFormat} InputFormat */

const canvas = document.createElement('canvas');
// Kept in main memory, as its pixels are read back. Without alpha, what is transparent is black.
const context = canvas.getContext('2d', {alpha: false, willReadFrequently: true});

/**
 * @param {Blob} file
 * @param {string} name For the message.
 * @returns {Promise<ImageBitmap>} The right way up. Colour profiles are left alone, as Pillow and
 *   TensorFlow leave them.
 */
export async function decodePhoto(file, name) {
  try {
    return await createImageBitmap(file, {imageOrientation: 'from-image', colorSpaceConversion: 'none'});
  } catch {
    throw new Problem(`${name} is not a photograph that this browser can read. JPEG, PNG and WebP are.`);
  }
}

/**
 * @param {ImageBitmap | HTMLVideoElement} source
 * @param {InputFormat} format
 * @returns {Float32Array | Uint8Array} 0..255, row by row, channels last.
 */
export function toPixels(source, format) {
  const {height, width} = format;
  canvas.height = height;
  canvas.width = width;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = 'high';
  const sourceWidth = source.videoWidth ?? source.width;
  const sourceHeight = source.videoHeight ?? source.height;
  const scale = Math.max(width / sourceWidth, height / sourceHeight);
  const resizedWidth = Math.max(width, Math.floor(sourceWidth * scale + 1e-6));
  const resizedHeight = Math.max(height, Math.floor(sourceHeight * scale + 1e-6));
  const left = halved(resizedWidth - width);
  const top = halved(resizedHeight - height);
  context.drawImage(source, -left, -top, resizedWidth, resizedHeight);
  return withoutAlpha(context.getImageData(0, 0, width, height).data, format);
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
 * @param {Uint8ClampedArray} rgba
 * @param {InputFormat} format
 * @returns {Float32Array | Uint8Array}
 */
function withoutAlpha(rgba, {channels, dtype}) {
  const count = rgba.length / 4;
  const pixels = new (dtype === 'uint8' ? Uint8Array : Float32Array)(count * channels);
  for (let i = 0; i < count; i++) {
    const [red, green, blue] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) {
      // ITU-R BT.601 luma in 16-bit fixed point, the grey of Pillow's convert("L").
      pixels[i] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
    } else {
      pixels[3 * i] = red;
      pixels[3 * i + 1] = green;
      pixels[3 * i + 2] = blue;
    }
  }
  return pixels;
}
