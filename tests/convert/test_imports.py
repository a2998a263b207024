"""Which parts may import PyTorch."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_only_convert_torch_files_import_torch():
    for folder in ("convmixer_keras", "convert"):
        for path in (ROOT / folder).rglob("*.py"):
            if folder == "convert" and path.name.startswith("torch_"):
                continue
            assert not re.search(r"^\s*(import|from) torch\b", path.read_text(), re.MULTILINE), path


def test_the_builders_and_the_converter_do_without_torch_until_it_is_needed():
    program = (
        "import sys, convmixer_keras; convmixer_keras.ConvMixer768_32; "
        "import convmixer_keras.convert.torch_weights, convmixer_keras.commands.convert, "
        "convmixer_keras.convert.torch_verify, convmixer_keras.pretrained; "
        "print(sorted({'torch', 'tensorflow_datasets', 'keras_cv', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
