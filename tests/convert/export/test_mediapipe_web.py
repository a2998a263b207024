"""The source code for pages in a real Chromium, with the newest MediaPipe Tasks from npm."""

import functools
import http.server
import shutil
import subprocess
import threading

import numpy as np
import pytest
from chromium import chromium
from PIL import ExifTags, Image
from small_models import build

from convmixer_keras.commands import snippet
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.images.preprocessing import Preprocessing

pytestmark = pytest.mark.real

NAMES = ["cat", "Hündin", "a b", "4"]
# Of probabilities: runtimes round in their own ways where they quantise.
TOLERANCES = {"float32": 1e-4, "float16": 1e-4, "dynamic": 1e-2, "int8": 1e-2}
PAGE = """<!doctype html><meta charset="utf-8"><img src="%s"><script type="importmap">
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
    # A photograph that is to be turned by a quarter, three times the model's size and longer than broad.
    random = np.random.default_rng(4).integers(0, 256, (4, 5, 3), np.uint8)
    scene, exif = Image.fromarray(random).resize((300, 200)), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    scene.save(folder / "turned.jpg", quality=95, exif=exif)
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


def scores(browser, site, record, photo):
    """What the source code for a file prints of a photograph, in the order of the names."""
    folder, address = site
    (folder / "index.html").write_text(PAGE % photo)
    source = snippet.snippet("js", "model.tflite", record, len(NAMES))
    with browser.new_context() as context:
        page = context.new_page()
        lines, errors = [], []
        page.on("console", lambda message: lines.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.evaluate("addEventListener('unhandledrejection', () => { window.failed = true; })")
        page.add_script_tag(type="module", content=f"{source}\nwindow.done = true;")
        page.wait_for_function("window.done || window.failed", timeout=120_000)
    assert not errors
    found = dict(line.rsplit(" ", 1) for line in lines if line.rsplit(" ", 1)[0] in NAMES)
    return [float(found[name]) for name in NAMES]


@pytest.mark.parametrize("mode", tflite.MODES)
def test_the_snippet_classifies(mode, site, browser):
    """Names and scores are those of `Classifier`, on a photograph of exactly the model's size."""
    folder, _ = site
    pixels = {"input_shape": (48, 48, 3), "input_mean": 120.0, "input_std": 50.0}
    model = build(**pixels, classes=4, classifier_activation="softmax")
    photo = np.asarray(Image.open(folder / "photo.png"))
    images = np.stack([photo, photo[::-1], photo[:, ::-1]])
    tflite.export(model, folder / "model.tflite", mode, calibration=images, labels=NAMES)
    expected = Classifier(folder / "model.tflite").predict(photo[None])[0]
    got = scores(browser, site, Preprocessing(48), "photo.png")
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCES[mode])
    assert np.ptp(expected) > 0.01


def test_the_snippet_turns_and_crops(site, browser):
    """A camera's photograph, by a network that is higher than broad."""
    folder, _ = site
    model = build(
        input_shape=(64, 48, 3), input_mean=120.0, input_std=50.0, classes=4, kernel_size=3, depth=1
    )
    record = Preprocessing((64, 48), crop_pct=0.8)
    tflite.export(model, folder / "model.tflite", labels=NAMES, preprocessing=record)
    changes = ({}, {"orientation": "stored"}, {"crop_pct": 1.0})
    expected, *others = (
        Classifier(folder / "model.tflite", **change).predict(folder / "turned.jpg")[0] for change in changes
    )
    got = scores(browser, site, record, "turned.jpg")
    # Browsers resize in another way than Pillow.
    error = np.abs(got - expected).max()
    assert error < 0.001
    assert min(np.abs(other - expected).max() for other in others) > 5 * error
