"""How a run is carried out: everything a user sets beside its recipe."""

from dataclasses import dataclass

from convmixer_keras.utils.errors import InputError

_LEAST = {"steps_per_execution": 1, "checkpoint_every": 0, "max_bad_images": 0, "patience": 0, "freeze": 0}


@dataclass(frozen=True)
class Settings:
    """Where a run finds its data, what it runs on, and when it gives up. None of this changes the recipe.

    Attributes:
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        strategy: "auto", "one", "mirrored", "multiworker" or "tpu": see `distribution.choose_strategy`.
        peer_timeout: Seconds to wait for the other processes to start.
        steps_per_execution: Training steps in one call of the compiled step.
        checkpoint_every: Steps between checkpoints within an epoch; 0 for one after each epoch.
        max_bad_images: How many damaged files of a folder to leave out before the run fails.
        patience: Stop after so many epochs without a better validation accuracy; 0 for never.
        rematerialize: Whether to compute each block's activations twice instead of keeping them.
        deterministic: Whether to use TensorFlow's deterministic operations, so that two runs on a GPU end
            with the same weights. Slower.
        init_from: A `.keras` or `.weights.h5` file of a ConvMixer of the recipe's sizes whose body to start
            from; None for random weights.
        freeze: The patch embedding and so many blocks stay as they are; 0 freezes nothing.
    """

    data_dir: str | None = None
    strategy: str = "auto"
    peer_timeout: float = 600
    steps_per_execution: int = 1
    checkpoint_every: int = 0
    max_bad_images: int = 0
    patience: int = 0
    rematerialize: bool = False
    deterministic: bool = False
    init_from: str | None = None
    freeze: int = 0

    def __post_init__(self):
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
                raise InputError(f"{name} must be at least {least} and below 2**31, got {value!r}")
        if not isinstance(self.peer_timeout, (int, float)) or not 0 < self.peer_timeout <= 1e6:
            raise InputError(
                f"peer_timeout must be over 0 and at most 1e6 seconds, got {self.peer_timeout!r}"
            )
        for name in ("deterministic", "rematerialize"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
