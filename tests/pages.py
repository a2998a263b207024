"""The README and the pages of docs/ and examples/: their blocks, and the commands in them."""

import re
import shlex

from conftest import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md" and "litert" not in path.parts
)


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page):
    """The commands of a page, each as a list of words: those of `sh` blocks, and those in a sentence."""
    prose = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:python|pytest|pip install|convmixer-\w+) [^`]+)`", prose)
    return [command for line in lines for command in _split(line)]


def _split(line):
    """The commands of a line that are joined by &&, without the variables that are set before them."""
    words = shlex.split(line, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        command, words = words[:end], words[end + 1 :]
        while command and re.match(r"[A-Z_]+=", command[0]):
            del command[0]
        if command:
            yield command
