#!/usr/bin/env python3
"""Times the page of examples/web in Chromium, beside LiteRT outside it; batch 1.

  python benchmarks/browser.py                                            ConvMixer-1024/20, random weights
  python benchmarks/browser.py --model runs/photos/model.keras *.jpg      a trained model, and its answers

All candidates take turns in every round. With photographs, also how far the page's probabilities are from
Python's: on the same pixels, and on the files themselves, which the browser decodes and resizes. Needs the
extra "test" and Chromium (apt-get install chromium).
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import convmixer_keras as ck
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier

SERVE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "web" / "serve.py"
THREADS = (1, 4)
RUNS_A_TURN = 3


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", metavar="PHOTO", type=pathlib.Path)
    parser.add_argument("--model", metavar="FILE", help="a trained .keras model that takes raw pixels")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate (default: 7)")
    arguments = parser.parse_args()
    if bool(arguments.photos) != bool(arguments.model):
        parser.error("photographs and --model belong together")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        files, image = write_files(pathlib.Path(folder), arguments.model, arguments.photos)
        scratch = pathlib.Path(folder, "image.png")
        Image.fromarray(image.astype(np.uint8).squeeze()).save(scratch)
        playwright = stack.enter_context(sync_playwright())
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        candidates, pages = {}, {}
        for mode, path in files.items():
            address = stack.enter_context(served(path))
            for threads in THREADS:
                pages[mode] = opened(browser, address, threads)
                candidates[mode, "Chromium", threads] = page_step(pages[mode], scratch)
                candidates[mode, "LiteRT", threads] = native_step(Classifier(path, threads), image)
        print_times(race(candidates, arguments.rounds))
        if arguments.photos:
            for mode, path in files.items():
                print_differences(mode, Classifier(path), pages[mode], arguments.photos, scratch)


def write_files(folder, trained, photos):
    """Returns the path of a file by its mode, and an image that they take."""
    if trained:
        model = keras.saving.load_model(trained)
        images = np.stack([ck.preprocessing.Preprocessing(model.input_shape[1:3])(photo) for photo in photos])
    else:
        model = ck.ConvMixer1024_20(include_preprocessing=True, classifier_activation="softmax")
        images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3)).astype(np.float32)
    files = {mode: folder / f"{mode}.tflite" for mode in tflite.MODES}
    for mode, path in files.items():
        tflite.export(model, path, mode, calibration=images)
    return files, images[0]


@contextlib.contextmanager
def served(path):
    command = [sys.executable, SERVE, path, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split(" ")[0]
    finally:
        process.kill()
        process.wait()


def opened(browser, address, threads):
    page = browser.new_page()
    page.add_init_script(f"Object.defineProperty(navigator, 'hardwareConcurrency', {{get: () => {threads}}})")
    page.goto(address)
    page.wait_for_selector("#file:enabled", timeout=120_000)
    expected = f"WebAssembly, {threads} thread{'s' if threads > 1 else ''}"
    if page.text_content("#backend") != expected:
        sys.exit(f"error: the page runs on {page.text_content('#backend')} and not on {expected}")
    return page


def classified(page, photo):
    """Returns {class: probability} of the five likeliest."""
    page.evaluate("document.getElementById('results').replaceChildren()")
    page.set_input_files("#file", photo)
    page.wait_for_selector("#results li", timeout=120_000)
    rows = page.eval_on_selector_all("#results li", "rows => rows.map((row) => ({...row.dataset}))")
    return {int(row["index"]): float(row["probability"]) for row in rows}


def page_step(page, photo):
    def step():
        classified(page, photo)
        return float(page.text_content("#time").removesuffix(" ms"))

    return step


def native_step(classifier, pixels):
    def step():
        began = time.perf_counter()
        classifier.predict(pixels)
        return 1e3 * (time.perf_counter() - began)

    return step


def race(candidates, rounds):
    """Returns the median time of each candidate in ms."""
    times = {name: [] for name in candidates}
    for step in candidates.values():
        step()
    for _ in range(rounds):
        for name, step in candidates.items():
            times[name] += [step() for _ in range(RUNS_A_TURN)]
    return {name: statistics.median(values) for name, values in times.items()}


def print_times(times):
    columns = [(where, threads) for threads in THREADS for where in ("Chromium", "LiteRT")]
    print("| | " + " | ".join(f"{where}, threads: {threads}, ms" for where, threads in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for mode in tflite.MODES:
        print(f"| {mode} | " + " | ".join(f"{times[(mode, *column)]:.1f}" for column in columns) + " |")


def print_differences(mode, classifier, page, photos, scratch):
    same, file, agree = 0.0, 0.0, 0
    for photo in photos:
        pixels = ck.preprocessing.Preprocessing(classifier.input_shape[:2])(photo)
        Image.fromarray(pixels.astype(np.uint8).squeeze()).save(scratch)
        expected = classifier.predict(pixels)[0]
        found = classified(page, scratch)
        same = max(same, *(abs(found[i] - expected[i]) for i in found))
        found = classified(page, photo)
        file = max(file, *(abs(found[i] - expected[i]) for i in found))
        agree += next(iter(found)) == expected.argmax()
    print(
        f"{mode}: probabilities differ by up to {same:.2g} on the same pixels, {file:.2g} on the files; "
        f"same class on {agree} of {len(photos)} files"
    )


if __name__ == "__main__":
    main()
