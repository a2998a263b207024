"""Runs `.tflite` files on images in an environment of its own, where nothing of this package is installed.

  python run_tflite.py litert MODEL IMAGES.npy      scores by the interpreter of LiteRT or of TensorFlow Lite
  python run_tflite.py classifier MODEL IMAGES.npy  by MediaPipe's ImageClassifier
  python run_tflite.py embedder MODEL IMAGES.npy    by MediaPipe's ImageEmbedder

Prints as JSON {"scores": a list for each image, "names": of the classes} or {"refused": message}.
"""

import json
import sys

import numpy as np


def litert(path, images):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    scores = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        scores.append(interpreter.get_tensor(target["index"])[0].tolist())
    return {"scores": scores}


def classifier(path, images):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path))
    scores, names = [], None
    with vision.ImageClassifier.create_from_options(options) as task:
        for image in images:
            result = task.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
            found = sorted(result.classifications[0].categories, key=lambda category: category.index)
            names = [category.category_name for category in found]
            scores.append([category.score for category in found])
    return {"scores": scores, "names": names}


def embedder(path, images):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageEmbedderOptions(base_options=BaseOptions(model_asset_path=path))
    with vision.ImageEmbedder.create_from_options(options) as task:
        results = [task.embed(mp.Image(image_format=mp.ImageFormat.SRGB, data=image)) for image in images]
    return {"scores": [result.embeddings[0].embedding.tolist() for result in results]}


if __name__ == "__main__":
    run = {"litert": litert, "classifier": classifier, "embedder": embedder}[sys.argv[1]]
    try:
        answer = run(sys.argv[2], np.load(sys.argv[3]))
    except (OSError, RuntimeError, ValueError) as error:  # MediaPipe raises FileNotFoundError, too.
        answer = {"refused": str(error)}
    print(json.dumps(answer))
