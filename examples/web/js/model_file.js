/** The `.tflite` file: fetching it, and what it says about itself. */

import {readArchive} from './archive.js';
import {Problem, firstLine} from './problem.js';

const MAGIC = 'TFL3';

/**
 * @typedef {object} ModelFile
 * @property {Uint8Array} bytes
 * @property {string[] | null} classNames One for each class, or null where the file has none.
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
  try {
    entries = await readArchive(bytes);
    input = JSON.parse(entries.get('input.json') ?? '{}');
  } catch (error) {
    throw new Problem(`The class names at the end of ${address} are damaged (${firstLine(error)}).`);
  }
  return {
    bytes,
    classNames: entries.get('labels.txt')?.trimEnd().split(/\r?\n/) ?? null,
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
