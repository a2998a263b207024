/** Running the network with LiteRT.js, on WebGPU where that takes all of it, otherwise on WebAssembly. */

import {Problem, firstLine} from './problem.js';

/** @typedef {import('./model_file.js').ModelFile} ModelFile */

// Phones have few fast cores, and a convolution cut into equal parts waits for the slowest core.
const MOST_THREADS = 4;

/**
 * @typedef {object} InputFormat
 * @property {number} height
 * @property {number} width
 * @property {number} channels 1 (grey) or 3 (red, green, blue).
 * @property {'float32' | 'uint8'} dtype Of the pixels, 0..255 in both.
 */

export class Classifier {
  /** @type {InputFormat} */
  input;
  /** @type {number} */
  classes;
  /** What ran: "WebGPU" or "WebAssembly, 4 threads". @type {string} */
  backend;
  #litert;
  #network;
  #givesLogits;
  /** The run under way; they go one after the other. @type {Promise<unknown>} */
  #last = Promise.resolve();

  /**
   * Compiles a model and runs it once.
   *
   * @param {ModelFile} file
   * @returns {Promise<Classifier>}
   */
  static async load(file) {
    if (file.takesPixels === false && !file.preprocessing?.mean) {
      throw new Problem(
        'This model takes normalised channels, not pixels: export it again with --mean and --std.'
      );
    }
    const litert = await loadLiteRt();
    if (litert.getWebGpuDevice()) {
      try {
        return await Classifier.#compiled(litert, file, {accelerator: 'webgpu'});
      } catch (error) {
        if (error instanceof Problem) throw error;
        console.info(`Not on WebGPU: ${firstLine(error)}`);
      }
    }
    try {
      return await Classifier.#compiled(litert, file, {accelerator: 'wasm'});
    } catch (error) {
      if (error instanceof Problem) throw error;
      throw new Problem(`LiteRT.js cannot run this model: ${firstLine(error)}`);
    }
  }

  static async #compiled(litert, file, {accelerator}) {
    const numThreads = Math.min(MOST_THREADS, litert.mostThreads);
    const network = await litert.loadAndCompile(file.bytes, {
      accelerator,
      cpuOptions: {numThreads},
      // Half precision would change the scores, and ends at 65504.
      gpuOptions: {precision: 'fp32'},
    });
    try {
      const onWebGpu = network.options.accelerator === 'webgpu' && network.isFullyAccelerated;
      if (accelerator === 'webgpu' && !onWebGpu) throw new Error('it does not take the whole network');
      const classifier = new Classifier();
      classifier.#litert = litert;
      classifier.#network = network;
      classifier.#givesLogits = network.getOutputDetails()[0].name === 'logits';
      classifier.input = inputFormat(network);
      classifier.classes = classCount(network, file);
      const threads = numThreads === 1 ? '1 thread' : `${numThreads} threads`;
      classifier.backend = onWebGpu ? 'WebGPU' : `WebAssembly, ${threads}`;
      // The first run makes buffers and shaders, which the time of an image should not count.
      const {height, width, channels, dtype} = classifier.input;
      await classifier.classify(new (dtype === 'uint8' ? Uint8Array : Float32Array)(height * width * channels));
      return classifier;
    } catch (error) {
      network.delete();
      throw error;
    }
  }

  /**
   * @param {Float32Array | Uint8Array} pixels As `input` says, row by row, channels last.
   * @returns {Promise<{probabilities: Float32Array, milliseconds: number}>} Logits have gone through a
   *   softmax; the time is the network's alone, with the copies in and out.
   */
  classify(pixels) {
    const run = this.#last.then(() => this.#run(pixels));
    this.#last = run.catch(() => {});
    return run;
  }

  async #run(pixels) {
    const {height, width, channels} = this.input;
    const start = performance.now();
    const image = new this.#litert.Tensor(pixels, [1, height, width, channels]);
    let outputs = [];
    try {
      outputs = await this.#network.run([image]);
      const scores = Float32Array.from(await outputs[0].data());
      const milliseconds = performance.now() - start;
      if (!scores.every(Number.isFinite)) throw new Error('The network gave scores that are not numbers.');
      return {probabilities: this.#givesLogits ? softmax(scores) : scores, milliseconds};
    } finally {
      // Their memory is LiteRT's, which no garbage collector sees.
      for (const tensor of [image, ...outputs]) tensor.delete();
    }
  }
}

/** Loads the build of LiteRT.js with threads where the browser allows them. */
async function loadLiteRt() {
  try {
    const litert = await import('@litertjs/core');
    const threads =
      crossOriginIsolated && (await litert.supportsFeature('threads')) && (await litert.supportsFeature('relaxedSimd'));
    await litert.loadLiteRt(new URL('../litert/core/wasm/', import.meta.url).href, {threads});
    return {...litert, mostThreads: threads ? navigator.hardwareConcurrency : 1};
  } catch (error) {
    throw new Problem(`LiteRT.js could not be started (${firstLine(error)}).`);
  }
}

/** @returns {InputFormat} */
function inputFormat(network) {
  const inputs = network.getInputDetails();
  const [{shape, dtype}] = inputs;
  const [batch, height, width, channels] = shape;
  const fits = shape.length === 4 && batch === 1 && height > 0 && width > 0 && [1, 3].includes(channels);
  if (inputs.length !== 1 || !fits || !['float32', 'uint8'].includes(dtype)) {
    throw new Problem(
      'This model does not take one photograph: its input must be 1 x height x width x 1 or 3 channels, and is ' +
        inputs.map((input) => `${[...input.shape].join(' x ')} ${input.dtype}`).join(' and ') + '.'
    );
  }
  return {height, width, channels, dtype};
}

/**
 * @param {ModelFile} file
 * @returns {number}
 */
function classCount(network, {classNames}) {
  const outputs = network.getOutputDetails();
  const [{name, shape, dtype}] = outputs;
  if (outputs.length !== 1 || name === 'features' || shape.length !== 2 || shape[0] !== 1 || dtype !== 'float32') {
    throw new Problem(
      'This model does not name classes: its output must be 1 x classes float32, and is ' +
        outputs.map((output) => `${output.name}, ${[...output.shape].join(' x ')} ${output.dtype}`).join(' and ') + '.'
    );
  }
  const classes = shape[1];
  if (classNames && classNames.length !== classes) {
    throw new Problem(`This model has ${classes} classes, and the names of ${classNames.length}.`);
  }
  return classes;
}

/**
 * @param {Float32Array} logits
 * @returns {Float32Array}
 */
function softmax(logits) {
  // One logit is that of the first of two classes.
  if (logits.length === 1) return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp(logit - highest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}
