// $model: $record
// npm install @mediapipe/tasks-vision
import {FilesetResolver, ImageClassifier} from '@mediapipe/tasks-vision';

const [WIDTH, HEIGHT] = [$width, $height];
const CROP = $crop_pct; // Share of the photograph that the network sees.

const files = await FilesetResolver.forVisionTasks('node_modules/@mediapipe/tasks-vision/wasm');
const classifier = await ImageClassifier.createFromOptions(files, {
  baseOptions: {modelAssetPath: '$model'},
  maxResults: $top,
});

/** The middle of a photograph in the network's size. Browsers draw a photograph turned as EXIF says. */
function middle(image) {
  const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
  const context = canvas.getContext('2d');
  const scale = Math.max(WIDTH / image.naturalWidth, HEIGHT / image.naturalHeight) / CROP;
  const [width, height] = [scale * image.naturalWidth, scale * image.naturalHeight];
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, (WIDTH - width) / 2, (HEIGHT - height) / 2, width, height);
  return canvas;
}

const image = document.querySelector('img');
for (const {categoryName, score} of classifier.classify(middle(image)).classifications[0].categories) {
  console.log(categoryName, score);
}
