"""Everything but the description stands in setup.cfg: on an index, the README's links are whole addresses."""

import pathlib
import re

import setuptools

REPOSITORY = "https://github.com/convmixer-keras/convmixer-keras"


def readme():
    text = (pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    text = text.replace("(../../actions/", f"({REPOSITORY}/actions/")
    text = re.sub(r"(!\[[^]]*\]\()(?!http)", rf"\1{REPOSITORY}/raw/main/", text)
    return re.sub(r"(\]\()(?!http|#)", rf"\1{REPOSITORY}/blob/main/", text)


setuptools.setup(long_description=readme())
