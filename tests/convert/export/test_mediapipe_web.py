"""The JavaScript of docs/on-a-phone.md in a real Chromium, with the newest MediaPipe Tasks from npm."""

import functools
import http.server
import shutil
import subprocess
import threading

import numpy as np
import pytest
from chromium import chromium
from pages import blocks
from PIL import Image
from small_models import build

from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier

pytestmark = pytest.mark.real

NAMES = ["cat", "Hündin", "a b", "4"]
# Of probabilities: runtimes round in their own ways where they quantise.
TOLERANCES = {"float32": 1e-4, "float16": 1e-4, "dynamic": 1e-2, "int8": 1e-2}
PAGE = """<!doctype html><meta charset="utf-8"><img src="photo.png"><script type="importmap">
{"imports": {"@mediapipe/tasks-vision": "/node_modules/@mediapipe/tasks-vision/vision_bundle.mjs"}}
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with MediaPipe and a photograph of the model's size, and its address."""
    if shutil.which("npm") is None:
        pytest.skip("needs Node: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("site")
    command = ["npm", "install", "--silent", "--no-audit", "@mediapipe/tasks-vision"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs @mediapipe/tasks-vision: {done.stderr.strip()}")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((48, 48)).save(folder / "photo.png")
    (folder / "index.html").write_text(PAGE)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as launch:
        yield launch("--enable-unsafe-swiftshader")


@pytest.mark.parametrize("mode", tflite.MODES)
def test_the_snippet_classifies(mode, site, browser):
    """Names and scores are those of `Classifier`, on a photograph of exactly the model's size."""
    folder, address = site
    pixels = {"input_shape": (48, 48, 3), "input_mean": 120.0, "input_std": 50.0}
    model = build(**pixels, classes=4, classifier_activation="softmax")
    photo = np.asarray(Image.open(folder / "photo.png"))
    images = np.stack([photo, photo[::-1], photo[:, ::-1]])
    tflite.export(model, folder / "model.tflite", mode, calibration=images, labels=NAMES)
    expected = Classifier(folder / "model.tflite").predict(photo[None])[0]

    (snippet,) = blocks("docs/on-a-phone.md", "javascript")
    assert "crop = 0.96" in snippet  # Nothing is left to crop here.
    with browser.new_context() as context:
        page = context.new_page()
        lines, errors = [], []
        page.on("console", lambda message: lines.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.evaluate("addEventListener('unhandledrejection', () => { window.failed = true; })")
        done = "\nwindow.done = true;"
        page.add_script_tag(type="module", content=snippet.replace("crop = 0.96", "crop = 1") + done)
        page.wait_for_function("window.done || window.failed", timeout=120_000)
    assert not errors
    found = dict(line.rsplit(" ", 1) for line in lines if line.rsplit(" ", 1)[0] in NAMES)
    scores = [float(found[name]) for name in NAMES]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCES[mode])
    assert np.ptp(expected) > 0.01
