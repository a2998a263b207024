"""What a model says of photographs, written as it comes: as text, as a table, as JSON, as pictures."""

import csv
import json
import os
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from convmixer_keras.utils import figures
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import written_whole
from convmixer_keras.utils.text import one_line

PAGE = 48  # Photographs on one page of the sheet.


class Answer(NamedTuple):
    """What a model says of a photograph.

    Attributes:
        path: Of the file.
        truth: The class that its folder is named like, or None.
        numbers: Those of the classes that it may be, as ImageNet has two cranes.
        picture: The photograph as the model sees it, pixels 0..255 (height, width, channels).
        classes: The likeliest, as `Predictor.top` gives them.
    """

    path: str
    truth: str | None
    numbers: Container[int]
    picture: np.ndarray
    classes: list[tuple[int, str, float]]

    @property
    def is_wrong(self):
        return self.truth is not None and self.classes[0][0] not in self.numbers


def print_answers(answers):
    for path, *_, classes in answers:
        print(one_line(path))
        for _, name, probability in classes:
            print(f"  {100 * probability:5.1f} %  {one_line(name, 100)}", flush=True)


class _Written:
    """A file that stays open for the answers to come; what was written so far is in it."""

    def __init__(self, path):
        self.path = path
        try:
            self.file = open(path, "w", newline="", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror.lower()}") from None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if error == (None, None, None):
            print(f"wrote {one_line(self.path)}")


class Table(_Written):
    """Answers as CSV, a line for each class that was named."""

    def __init__(self, path):
        super().__init__(path)
        self.rows = csv.writer(self.file)
        self.rows.writerow(("file", "rank", "class", "probability", "truth"))

    def write(self, answers):
        for path, truth, *_, classes in answers:
            for rank, (_, name, score) in enumerate(classes, 1):
                self.rows.writerow((path, rank, name, score, truth))
        self.file.flush()


class JsonList(_Written):
    """Answers as a JSON list, which is whole after each batch."""

    def __init__(self, path):
        super().__init__(path)
        self.separator, self.end = "[\n", 0
        self.write([])

    def write(self, answers):
        self.file.seek(self.end)
        for path, truth, *_, classes in answers:
            named = [{"name": name, "probability": score} for _, name, score in classes]
            text = json.dumps({"file": path, "truth": truth, "classes": named}, ensure_ascii=False)
            self.file.write(self.separator + text)
            self.separator = ",\n"
        self.end = self.file.tell()
        self.file.write("\n]\n" if self.end else "[]\n")
        self.file.flush()


def page(path, number):
    """Returns the path of one of a sheet's pages, counted from 0."""
    start, ending = os.path.splitext(path)
    return f"{start}-{number + 1}{ending}" if number else path


class Sheet:
    """Answers as pictures, each under its file's name, its folder's class and what the model says."""

    def __init__(self, path):
        self.path = path
        self.pages, self.waiting, self.wrong = [], [], 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error != (None, None, None):
            return
        if self.waiting:
            self._draw(self.waiting)
        if self.pages:
            pages = self.pages if len(self.pages) < 3 else (self.pages[0], "...", self.pages[-1])
            print(f"wrote {one_line(' '.join(pages))}: the photographs as the network sees them")
        if self.wrong:
            print(f"marked in red: {self.wrong:,} whose folder is another class than the likeliest")

    def write(self, answers):
        self.waiting += answers
        while len(self.waiting) >= PAGE:
            self._draw(self.waiting[:PAGE])
            del self.waiting[:PAGE]

    def _draw(self, answers):
        path = page(self.path, len(self.pages))
        wrong = [number for number, answer in enumerate(answers) if answer.is_wrong]
        pictures, titles = [answer.picture for answer in answers], [_title(answer) for answer in answers]
        with written_whole(path) as temporary:
            figures.image_grid(pictures, titles, columns=6, wrong=wrong).savefig(temporary)
        self.pages.append(path)
        self.wrong += len(wrong)


def _title(answer):
    lines = [os.path.basename(answer.path)]
    if answer.truth is not None:
        lines.append(f"is {answer.truth}")
    lines += [f"{name[:20]} {100 * score:.0f} %" for _, name, score in answer.classes[:3]]
    return "\n".join(map(one_line, lines))
