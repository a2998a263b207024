/** The `.tflite` file: fetching it, and what it says about itself. */

import {readArchive} from './archive.js';
import {Problem, firstLine} from './problem.js';

const MAGIC = 'TFL3';

/**
 * How a photograph becomes the network's input, in the words of `preprocessing.json`.
 *
 * @typedef {object} Preprocessing
 * @property {number} crop_pct Share of the resized side that the centre crop keeps.
 * @property {'bicubic' | 'bilinear' | 'lanczos' | 'nearest'} interpolation
 * @property {'exif' | 'stored'} orientation
 * @property {number[] | null} mean Per channel, 0..1, for a network that takes normalised channels.
 * @property {number[] | null} std
 */

/** What is taken where the file does not say. @type {Preprocessing} */
export const DEFAULT_PREPROCESSING = {
  crop_pct: 1, interpolation: 'bicubic', orientation: 'exif', mean: null, std: null,
};

/**
 * @typedef {object} ModelFile
 * @property {Uint8Array} bytes
 * @property {string[] | null} classNames One for each class, or null where the file has none.
 * @property {Preprocessing | null} preprocessing Null where the file does not say.
 * @property {boolean | null} takesPixels False for a network of normalised channels, null where the
 *   file does not say.
 */

/**
 * @param {string} address
 * @param {(received: number, total: number | null) => void} onProgress In bytes; total is null where the
 *   server does not tell it.
 * @returns {Promise<ModelFile>}
 */
export async function fetchModel(address, onProgress) {
  const bytes = await download(address, onProgress);
  if (new TextDecoder().decode(bytes.subarray(4, 8)) !== MAGIC) {
    throw new Problem(`${address} is not a TFLite model.`);
  }
  let entries;
  let input;
  let preprocessing;
  try {
    entries = await readArchive(bytes);
    input = JSON.parse(entries.get('input.json') ?? '{}');
    preprocessing = JSON.parse(entries.get('preprocessing.json') ?? 'null');
  } catch (error) {
    throw new Problem(`The class names at the end of ${address} are damaged (${firstLine(error)}).`);
  }
  const known = ['size', 'channels', ...Object.keys(DEFAULT_PREPROCESSING)];
  const unknown = Object.keys(preprocessing ?? {}).filter((name) => !known.includes(name));
  if (unknown.length) throw new Problem(`This page is too old for the model's ${unknown.join(', ')}.`);
  return {
    bytes,
    classNames: entries.get('labels.txt')?.replace(/\r?\n$/, '').split(/\r?\n/) ?? null,
    preprocessing,
    takesPixels: input.takes_pixels ?? null,
  };
}

/**
 * @param {string} address
 * @param {(received: number, total: number | null) => void} onProgress
 * @returns {Promise<Uint8Array>}
 */
async function download(address, onProgress) {
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Problem(`There is no ${address} here (HTTP status ${response.status}).`);
    // The length of a compressed answer is not that of the file.
    const plain = !response.headers.has('Content-Encoding');
    const total = (plain && Number(response.headers.get('Content-Length'))) || null;
    const chunks = [];
    let received = 0;
    for (let reader = response.body.getReader(); ; ) {
      const {done, value} = await reader.read();
      if (done) break;
      chunks.push(value);
      received += value.length;
      onProgress(received, total);
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(`${address} could not be loaded (${firstLine(error)}). Is the server still running?`);
  }
}
