"""How a run is carried out: everything a user sets beside its recipe."""

from dataclasses import dataclass

from convmixer_keras.utils import fields
from convmixer_keras.utils.fields import setting

GROUP = "how it runs"
STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")
COUNT, COUNT_OR_NONE = (1, 2**31 - 1), (0, 2**31 - 1)


@dataclass(frozen=True)
class Settings:
    """Where a run finds its data, what it runs on, and when it gives up. None of this changes the recipe.

    Each field is also a flag of `train_keras.py`, whose `--help` explains it.
    """

    data_dir: str | None = setting(None, GROUP, "where tensorflow-datasets keeps its files", metavar="DIR")
    strategy: str = setting(
        "auto", GROUP, "which devices and machines; auto takes all there are", choices=STRATEGIES
    )
    peer_timeout: float = setting(
        600.0, GROUP, "seconds to wait for the other processes to start", (0.001, 1e6), metavar="SECONDS"
    )
    steps_per_execution: int = setting(1, GROUP, "steps in one call of the compiled step", COUNT)
    checkpoint_every: int = setting(
        0, GROUP, "steps between checkpoints within an epoch; 0 for one after each epoch", COUNT_OR_NONE
    )
    log_every: float = setting(
        30.0,
        GROUP,
        "seconds between lines about the run where there is no terminal",
        (0, 1e6),
        metavar="SECONDS",
    )
    max_bad_images: int = setting(
        0, GROUP, "damaged files of a folder to leave out; over 0, all are decoded first", COUNT_OR_NONE
    )
    check_images: bool = setting(
        False, GROUP, "decode all files of a folder first, and not only look at their headers"
    )
    rematerialize: bool = setting(
        False, GROUP, "compute each block's activations twice instead of keeping them"
    )
    deterministic: bool = setting(False, GROUP, "the same weights in every run on a GPU, too; slower")
    init_from: str | None = setting(
        None,
        GROUP,
        "start from a trained body: a .keras or .weights.h5 file, hf://USER/REPO, or a builder's name",
        metavar="FILE_OR_NAME",
    )
    freeze: int = setting(
        0, GROUP, "leave the patch embedding and N blocks as they are; 0 freezes nothing", COUNT_OR_NONE
    )

    def __post_init__(self):
        fields.check(self)
