from .pipeline import Data as Data
from .pipeline import load as load
from .pipeline import load_validation as load_validation
from .training import augment as augment
from .validation import validation_batches as validation_batches
