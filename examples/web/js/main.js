/** The page: a model is loaded, and photographs, dropped or chosen, or the camera's picture go through it. */

import {startCamera, stopCamera} from './camera.js';
import {Classifier} from './classifier.js';
import {DEFAULT_PREPROCESSING, fetchModel} from './model_file.js';
import {decodePhoto, toInput} from './pixels.js';
import {Problem, firstLine} from './problem.js';
import {
  announce, element, hideProblem, showPreparing, showProblem, showProgress, showReady, showResult, showSamples,
  showStage, showUnusable,
} from './view.js';

const MODEL = 'model.tflite';
// Of examples/photos/; a site without them offers none.
const SAMPLES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'].map(
  (name) => `photos/${name}/0000.jpg`
);
// Between two announcements of what the camera sees, so that a screen reader can finish the first.
const QUIET_MILLISECONDS = 3000;

/** @type {Classifier} */
let classifier;
/** @type {string[] | null} */
let classNames;
/** @type {import('./model_file.js').Preprocessing} */
let preprocessing;
let cameraIsOn = false;
/** Why nothing can be classified yet, or ever. @type {unknown} */
let unready = new Problem('The model is still loading: wait until it is ready.');
/** Counts what was asked for, so that an answer that took longer than the next question is dropped. */
let asked = 0;

async function load() {
  const file = await fetchModel(MODEL, showProgress);
  showPreparing();
  await painted();
  classifier = await Classifier.load(file);
  classNames = file.classNames;
  preprocessing = file.preprocessing ?? DEFAULT_PREPROCESSING;
  showReady(classifier, file);
  showSamples(SAMPLES, (address) => guarded(() => classifySample(address)));
}

/** @param {string} address */
async function classifySample(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Problem(`There is no ${address} any more (HTTP status ${response.status}).`);
  await classifyPhoto(new File([await response.blob()], address.split('/').slice(-2).join('/')));
}

/** @param {File} file */
async function classifyPhoto(file) {
  if (!classifier) throw unready;
  endCamera();
  const question = ++asked;
  const photo = await decodePhoto(file, file.name, preprocessing);
  if (question !== asked) return photo.bitmap.close();
  const shown = element('photo');
  URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(file);
  shown.alt = `The photo ${file.name}`;
  showStage('photo');
  await painted();
  const pixels = toInput(photo, classifier.input, preprocessing);
  photo.bitmap.close();
  const {probabilities, milliseconds} = await classifier.classify(pixels);
  if (question !== asked) return;
  const {text} = showResult(probabilities, classNames, milliseconds);
  shown.alt = `The photo ${file.name}: ${text}`;
  announce(text);
}

async function toggleCamera() {
  if (cameraIsOn) {
    asked++;
    endCamera();
    return announce('The camera is off.');
  }
  const question = ++asked;
  const video = element('video');
  cameraIsOn = true;
  try {
    await startCamera(video, () => guarded(async () => {
      endCamera();
      throw new Problem('The camera has stopped.');
    }));
  } catch (error) {
    if (question === asked) endCamera();
    throw error;
  }
  if (question !== asked) {
    // Called off while the browser was asking for permission.
    if (!cameraIsOn) stopCamera(video);
    return;
  }
  showStage('camera');
  await watch(video, question);
}

/**
 * Classifies what the camera sees, until something else is asked for.
 *
 * @param {HTMLVideoElement} video
 * @param {number} question
 */
async function watch(video, question) {
  const calm = matchMedia('(prefers-reduced-motion: reduce)');
  let announced = '';
  let announcedAt = -Infinity;
  try {
    while (question === asked) {
      if (video.videoWidth) {
        const frame = await createImageBitmap(video);
        const pixels = toInput({bitmap: frame, orientation: 1}, classifier.input, preprocessing);
        frame.close();
        const {probabilities, milliseconds} = await classifier.classify(pixels);
        if (question !== asked) return;
        const {name, text} = showResult(probabilities, classNames, milliseconds);
        if (name !== announced && performance.now() - announcedAt > QUIET_MILLISECONDS) {
          announce(text);
          [announced, announcedAt] = [name, performance.now()];
        }
      }
      await painted();
      if (calm.matches) await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  } catch (error) {
    if (question === asked) endCamera();
    throw error;
  }
}

function endCamera() {
  if (!cameraIsOn) return;
  cameraIsOn = false;
  stopCamera(element('video'));
  showStage('empty');
}

/** Resolves when the browser has painted, and has handled what was pressed in the meantime. */
function painted() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

/**
 * Runs an action, and shows what went wrong.
 *
 * @param {() => Promise<void>} action
 */
async function guarded(action) {
  hideProblem();
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    if (classifier) {
      // An answer stands only beside its picture, and not beside a problem.
      asked++;
      endCamera();
      showStage('empty');
    }
    showProblem(error instanceof Problem ? error.message : `Something went wrong: ${firstLine(error)}`);
  }
}

// Phones then ask which of the two; the text stands behind the input in its label.
if (matchMedia('(pointer: coarse)').matches) element('file').nextSibling.data = 'Choose or take a photo';
element('file').addEventListener('change', ({target}) => {
  const [file] = target.files;
  target.value = ''; // So that the same file can be chosen again.
  if (file) guarded(() => classifyPhoto(file));
});
element('camera').addEventListener('click', () => guarded(toggleCamera));

addEventListener('dragover', (event) => {
  event.preventDefault();
  element('stage').classList.add('over');
});
for (const name of ['dragleave', 'drop']) {
  addEventListener(name, () => element('stage').classList.remove('over'));
}
addEventListener('drop', (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  guarded(async () => {
    if (!file) throw new Problem('That is not a file: drop a photograph from your own device.');
    await classifyPhoto(file);
  });
});

await guarded(async () => {
  try {
    await load();
  } catch (error) {
    showUnusable();
    throw (unready = error);
  }
});
