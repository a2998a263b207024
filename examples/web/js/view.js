/** What the page shows. Nothing here knows of networks. */

const TOP = 5;

/** @param {string} id */
export const element = (id) => document.getElementById(id);

/**
 * @param {number} received Bytes.
 * @param {number | null} total Bytes, null where unknown.
 */
export function showProgress(received, total) {
  const bar = element('progress');
  if (total) {
    bar.max = total;
    bar.value = received;
  } else {
    bar.removeAttribute('value');
  }
  const share = total ? `${Math.floor((100 * received) / total)} % of ${megabytes(total)}` : megabytes(received);
  element('progress-text').textContent = `Loading the model: ${share}`;
}

/** The model is here; now it is made ready, which has no measure. */
export function showPreparing() {
  element('progress').removeAttribute('value');
  element('progress-text').textContent = 'Preparing the model';
}

/**
 * @param {import('./classifier.js').Classifier} classifier
 * @param {import('./model_file.js').ModelFile} file
 */
export function showReady({input, classes, backend}, file) {
  element('loading').hidden = true;
  element('backend').textContent = backend;
  const colour = input.channels === 1 ? 'grey' : 'colour';
  element('model').textContent =
    `${classes} classes, ${input.width} × ${input.height} ${colour}, ${megabytes(file.bytes.length)}`;
  element('unsure').hidden = file.preprocessing !== null;
  element('stage').style.setProperty('--aspect', input.width / input.height);
  for (const control of [element('file'), element('camera')]) control.disabled = false;
  element('placeholder').hidden = false;
  hideProblem();
  announce('The model is ready.');
}

/**
 * Offers photographs to try, as far as the server has them.
 *
 * @param {string[]} addresses Of image files, each in a folder that says what is on it.
 * @param {(address: string) => void} onChoice
 */
export function showSamples(addresses, onChoice) {
  for (const address of addresses) {
    const [button, image] = [document.createElement('button'), document.createElement('img')];
    button.type = 'button';
    button.ariaLabel = `Sample photo: ${address.split('/').at(-2)}`;
    button.hidden = true;
    button.addEventListener('click', () => onChoice(address));
    image.alt = '';
    image.addEventListener('load', () => {
      button.hidden = element('samples').hidden = false;
    });
    image.src = address;
    button.append(image);
    element('samples').querySelector('.strip').append(button);
  }
}

/** The model cannot be loaded. */
export function showUnusable() {
  element('loading').hidden = true;
}

/**
 * @param {Float32Array} probabilities
 * @param {string[] | null} classNames
 * @param {number} milliseconds
 * @returns {{name: string, text: string}} The best class, alone and with its share.
 */
export function showResult(probabilities, classNames, milliseconds) {
  const best = Array.from(probabilities.keys())
    .sort((a, b) => probabilities[b] - probabilities[a] || a - b)
    .slice(0, TOP);
  const name = (index) => classNames?.[index] ?? `class ${index}`;
  element('results').replaceChildren(...best.map((index) => row(index, name(index), probabilities[index])));
  element('results').hidden = false;
  element('placeholder').hidden = true;
  element('time').textContent = `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
  return {name: name(best[0]), text: `${name(best[0])}, ${percent(probabilities[best[0]])}`};
}

/**
 * @param {number} index Of the class.
 * @param {string} name
 * @param {number} probability
 */
function row(index, name, probability) {
  const item = element('row').content.cloneNode(true).firstElementChild;
  item.dataset.index = index;
  item.dataset.probability = probability;
  item.querySelector('.name').textContent = name;
  item.querySelector('.share').textContent = percent(probability);
  item.style.setProperty('--share', probability);
  return item;
}

/** @param {number} probability */
function percent(probability) {
  const value = 100 * probability;
  return value > 0 && value < 0.1 ? '< 0.1 %' : `${value.toFixed(1)} %`;
}

/** @param {number} bytes */
function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * Says something to those who do not see the page.
 *
 * @param {string} text
 */
export function announce(text) {
  element('status').textContent = text;
}

/** @param {string} message */
export function showProblem(message) {
  element('problem').textContent = message;
  element('problem').hidden = false;
}

export function hideProblem() {
  element('problem').hidden = true;
  element('problem').textContent = '';
}

/** What the stage shows: 'empty', 'photo' or 'camera'. @param {string} what */
export function showStage(what) {
  const on = what === 'camera';
  element('camera').textContent = on ? 'Stop the camera' : 'Use the camera';
  element('photo').hidden = what !== 'photo';
  element('video').hidden = !on;
  element('hint').hidden = what !== 'empty';
  if (what === 'empty') {
    // An answer stands only beside its picture.
    element('results').hidden = true;
    element('placeholder').hidden = false;
    element('time').textContent = '–';
  }
}
