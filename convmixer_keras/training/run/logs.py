"""TensorBoard's logs of a run, which are made from its history."""

import contextlib
import glob
import os

import tensorflow as tf

SPLITS = ("train", "validation")
_EVENTS = "events.out.tfevents.*"


class Logs:
    """Writes a run's epochs for TensorBoard, those before a resume (`history`) included: one unbroken run."""

    def __init__(self, folder, history=()):
        remove_logs(folder)
        self._writers = {
            split: tf.summary.create_file_writer(os.path.join(folder, split)) for split in SPLITS
        }
        for row in history:
            self.write(row)

    def write(self, row):
        """Writes one epoch, a dictionary from column to number."""
        for name, value in row.items():
            if name in ("epoch", "seconds"):
                continue
            split = "validation" if name.startswith("val_") else "train"
            with self._writers[split].as_default(step=row["epoch"] - 1):
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value)
        for writer in self._writers.values():
            writer.flush()


def remove_logs(folder):
    """Removes what `Logs` wrote, and no other file."""
    for split in SPLITS:
        path = os.path.join(folder, split)
        for file in glob.glob(os.path.join(glob.escape(path), _EVENTS)):
            os.remove(file)
        with contextlib.suppress(OSError):  # It holds other files, or is not there.
            os.rmdir(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)
