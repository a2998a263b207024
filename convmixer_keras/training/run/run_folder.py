"""The folder of a training run: what is in it, and how it is written so that nothing is lost."""

import contextlib
import csv
import glob
import io
import json
import math
import os
import shutil

from convmixer_keras.recipes import Recipe
from convmixer_keras.training.run import lock
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import fields
from convmixer_keras.utils.errors import InputError, arg, first_line
from convmixer_keras.utils.files import WRITING, check_local, make_folder, read_text, sha256_of, written_whole

BEST_MODEL = "model.keras"
LAST_MODEL = "last.keras"
CONFIG = "config.json"
HISTORY = "history.csv"
CURVES = "curves.png"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint.weights.h5"  # weights, optimizer state and step: what --resume continues from
_COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
_FILES = (CHECKPOINT, BEST_MODEL, LAST_MODEL, HISTORY, CURVES)


class RunFolder:
    """Paths and small files of one run. The folder is made when the first file is written."""

    def __init__(self, path):
        check_local(path)
        self.path = os.path.normpath(os.path.expanduser(path))
        self._lock = None

    def __getitem__(self, name):
        return os.path.join(self.path, name)

    def holds_run(self):
        """Whether there is a run here. Another program's `config.json` does not count, a damaged one does."""
        if not os.path.isfile(self[CONFIG]):
            return False
        try:
            config = json.loads(read_text(self[CONFIG]))
        except (ValueError, RecursionError):
            return True
        return isinstance(config, dict) and isinstance(config.get("recipe"), dict)

    def has_begun(self):
        """Whether the run here has left more than its settings: a checkpoint or a finished epoch."""
        return any(os.path.lexists(self[name]) for name in _FILES)

    def check_free(self):
        """Raises InputError if files of a run could not be written here, or have their names but no run."""
        there = [name for name in (CONFIG, *_FILES) if os.path.lexists(self[name])]
        for name in there:
            if not os.path.isfile(self[name]):
                raise InputError(f"cannot write {self[name]}: it is not a regular file")
        if there and not self.holds_run():
            raise InputError(
                f"{self.path} holds {there[0]}, which is not from a run: move it, or choose another "
                f"{arg('output')}"
            )

    def lock(self):
        """Makes the folder, and keeps other processes out of it until `unlock`; see `lock.take`."""
        make_folder(self.path)
        self._lock = self._lock or lock.take(self.path)

    def unlock(self):
        if self._lock:
            with self._lock, contextlib.suppress(FileNotFoundError):
                os.remove(self[lock.NAME])
            self._lock = None

    def write_config(self, config):
        # Of a path that is not UTF-8, the escapes are JSON's.
        with (
            written_whole(self[CONFIG]) as path,
            open(path, "w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            json.dump(config, file, indent=2, ensure_ascii=False)
            file.write("\n")

    def epoch_of(self, path):
        """Returns after which epoch of this run a model file was written; None for any other file."""
        found, models = sha256_of(path), self.read_config().get("models", {})
        return next((known["epoch"] for known in models.values() if known["sha256"] == found), None)

    def remove_run(self):
        """Removes the files of an earlier run, and no other file."""
        from convmixer_keras.training.run.logs import remove_logs

        self.remove_leftovers()
        remove_logs(self[TENSORBOARD])
        # The settings last: as long as they are there the folder is known to hold a run.
        for name in (*_FILES, CONFIG):
            if os.path.lexists(self[name]):
                os.remove(self[name])

    def unsettled(self, epoch, name):
        """Returns the path at which a file of a finished epoch waits for the checkpoint after that epoch.

        A run that is killed before the checkpoint repeats the epoch, perhaps with another result, and its
        files must not say what happened the first time.
        """
        folder = self[f"{WRITING}epoch{epoch}"]
        os.makedirs(folder, exist_ok=True)
        return os.path.join(folder, name)

    def settle(self, epoch):
        """Moves the files of the epoch after which the checkpoint was written to their places.

        The config notes the models among them, so that no other file is taken for one. Half-written files of
        a process that was killed are removed.
        """
        models = {}
        for path in glob.glob(os.path.join(glob.escape(self[f"{WRITING}epoch{epoch}"]), "*")):
            name = os.path.basename(path)
            if name in (BEST_MODEL, LAST_MODEL):
                models[name] = {"epoch": epoch, "sha256": sha256_of(path)}
            os.replace(path, os.path.realpath(self[name]))
        if models:
            config, history = self.read_config(), self.read_history()
            if history and history[-1]["epoch"] == epoch:
                for noted in models.values():
                    noted["val_accuracy"] = history[-1]["val_accuracy"]
            self.write_config({**config, "models": {**config.get("models", {}), **models}})
        self.remove_leftovers()

    def best(self, history):
        """Returns epoch and val_accuracy of the best epoch, of those in a history and of the noted model.

        Rows of the history may have been lost; the best model is not replaced by a worse one then.
        """
        noted = self.read_config().get("models", {}).get(BEST_MODEL, {})
        rows = [*history, *([noted] if "val_accuracy" in noted else [])]
        return max(rows, key=lambda row: row["val_accuracy"], default={"epoch": 0, "val_accuracy": -1.0})

    def remove_leftovers(self):
        for leftover in glob.glob(os.path.join(glob.escape(self.path), WRITING + "*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def read_config(self):
        """Returns what `write_config` wrote; raises InputError if there is nothing, or it cannot be read."""
        if not os.path.isfile(self[CONFIG]):
            raise InputError(f"{self.path} holds no run: it has no {CONFIG}")
        text = read_text(self[CONFIG])
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self[CONFIG]} is damaged: {first_line(error)}") from None
        if not isinstance(config, dict):
            raise InputError(f"{self[CONFIG]} is not the config of a run: it has no recipe")
        return config

    def recipe(self):
        """Returns the run's `Recipe`; raises InputError if a setting is missing, unknown or not allowed."""
        return self._record("recipe", Recipe)

    def settings(self):
        return self._record("settings", Settings)

    def _record(self, name, kind):
        saved = self.read_config().get(name)
        if not isinstance(saved, dict):
            raise InputError(f"{self[CONFIG]} is not the config of a run: it has no {name}")
        try:
            return fields.from_saved(kind, saved)
        except InputError as error:
            raise InputError(f"{self[CONFIG]}: {error}") from None

    def read_history(self, epochs=math.inf):
        """Returns the first `epochs` epochs, dictionaries from column to number, or raises InputError."""
        if not os.path.isfile(self[HISTORY]):
            return []
        text = read_text(self[HISTORY])
        try:
            rows = [
                {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
                for row in csv.DictReader(io.StringIO(text, newline=""))
            ]
            # An epoch that was repeated after a resume counts as it was the last time.
            by_epoch = {row["epoch"]: row for row in rows if 1 <= row["epoch"] <= epochs}
            if missing := next((name for name in _COLUMNS for row in rows if name not in row), None):
                raise ValueError(f"it has no column {missing}")
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise InputError(f"{self[HISTORY]} is damaged: {first_line(error)}") from None
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def write_history(self, epochs):
        with (
            written_whole(self.unsettled(epochs[-1]["epoch"], HISTORY)) as path,
            open(path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(epochs[-1]), restval="nan", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(epochs)
