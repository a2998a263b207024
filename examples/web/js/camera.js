/** The camera's live picture. */

import {Problem, firstLine} from './problem.js';

const REASONS = {
  NotAllowedError:
    'The camera was refused. Allow it for this page in the browser (at the left of the address), and try again.',
  NotFoundError: 'This device has no camera that the browser can see.',
  NotReadableError: 'The camera is in use by another program.',
  AbortError: 'The camera stopped before it started; try again.',
};

/**
 * @param {HTMLVideoElement} video Shows the picture; the camera at the back is preferred.
 * @param {() => void} onEnd Called when the picture ends by itself, as when the camera is unplugged.
 */
export async function startCamera(video, onEnd) {
  if (!navigator.mediaDevices) {
    throw new Problem('Browsers give the camera only to pages from https, 127.0.0.1 or localhost.');
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}, audio: false});
    video.srcObject = stream;
    stream.getVideoTracks()[0].addEventListener('ended', onEnd);
    await video.play();
  } catch (error) {
    stopCamera(video);
    throw new Problem(REASONS[error.name] ?? `The camera could not be started (${firstLine(error)}).`);
  }
}

/** @param {HTMLVideoElement} video */
export function stopCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}
