"""Writes what a run leaves in its folder: models, history, curves and checkpoint."""

from convmixer_keras.models.saving import save_model
from convmixer_keras.training.run import checkpoint, run_folder
from convmixer_keras.training.run.logs import Logs
from convmixer_keras.training.step.network import thawed
from convmixer_keras.utils import figures
from convmixer_keras.utils.files import written_whole


class RunWriter:
    """Keeps a run in its folder. Of several processes only the chief has one; the others write nothing.

    `model` shares its weights with the one that is trained. To `history`, the finished epochs, `write_epoch`
    appends. `alone` says whether this is the run's only process.
    """

    def __init__(self, folder, model, class_names, history, alone=True, preprocessing=None):
        self.folder = folder
        self.model = model
        self.class_names = class_names
        self.history = history
        self.alone = alone
        self.preprocessing = preprocessing
        self._logs = Logs(folder[run_folder.TENSORBOARD], history) if folder else None

    def write_epoch(self, row):
        """Appends an epoch to the history, and saves the model as the last one and maybe the best one.

        The files are in their places once the checkpoint after the epoch is written.
        """
        if not self.folder:
            self.history.append(row)
            return
        best_before = self.folder.best(self.history)["val_accuracy"]
        self.history.append(row)
        for name in (run_folder.LAST_MODEL, run_folder.BEST_MODEL):
            if name == run_folder.LAST_MODEL or row["val_accuracy"] > best_before:
                path = self.folder.unsettled(row["epoch"], name)
                with thawed(self.model):
                    save_model(self.model, path, self.class_names, self.preprocessing)
        self.folder.write_history(self.history)
        self._logs.write(row)

    def write_checkpoint(self, training_model, progress):
        if self.folder:
            checkpoint.write(training_model, self.folder[run_folder.CHECKPOINT], progress)
            self.folder.settle(progress.epochs)

    def draw_curves(self):
        if self.folder and self.history:
            with written_whole(self.folder[run_folder.CURVES]) as path:
                figures.learning_curves(self.history).savefig(path)
