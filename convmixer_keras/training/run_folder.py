"""The folder of a training run: what is in it, and how it is written so that nothing is lost."""

import csv
import glob
import json
import os
import shutil

from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import WRITING, written_whole

BEST_MODEL = "model.keras"
LAST_MODEL = "last.keras"
CONFIG = "config.json"
HISTORY = "history.csv"
CURVES = "curves.png"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint.weights.h5"  # weights, optimizer state and step: what --resume goes on from


class RunFolder:
    """Paths and small files of one run.

    Args:
        path: The folder; it is made when the first file is written.
    """

    def __init__(self, path):
        self.path = os.path.normpath(os.path.expanduser(path))

    def __getitem__(self, name):
        return os.path.join(self.path, name)

    def holds_run(self):
        return os.path.exists(self[CONFIG])

    def create(self, config):
        """Makes the folder and writes the run's settings.

        Raises:
            InputError: If the folder cannot be made or written to.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path}: {error.strerror.lower()}") from None
        with written_whole(self[CONFIG]) as path, open(path, "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2, ensure_ascii=False)
            file.write("\n")

    def remove_run(self):
        """Removes the files of an earlier run, and no other file."""
        self.remove_leftovers()
        shutil.rmtree(self[TENSORBOARD], ignore_errors=True)
        # The settings last: as long as they are there the folder is known to hold a run.
        for name in (CHECKPOINT, BEST_MODEL, LAST_MODEL, HISTORY, CURVES, CONFIG):
            if os.path.exists(self[name]):
                os.remove(self[name])

    def remove_leftovers(self):
        """Removes the half-written files of a process that was killed."""
        for leftover in glob.glob(os.path.join(glob.escape(self.path), WRITING + "*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def read_config(self):
        """Returns the settings written by `create`.

        Raises:
            InputError: If there are none, or they cannot be read.
        """
        try:
            with open(self[CONFIG], encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            raise InputError(f"{self.path} holds no run: it has no {CONFIG}") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{self[CONFIG]} is damaged: {error}") from None

    def read_history(self):
        """Returns the epochs as a list of dictionaries from column to number, empty before the first."""
        if not os.path.exists(self[HISTORY]):
            return []
        with open(self[HISTORY], newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [
                {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
                for row in rows
            ]

    def write_history(self, epochs):
        with (
            written_whole(self[HISTORY]) as path,
            open(path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(epochs[0]))
            writer.writeheader()
            writer.writerows(epochs)
