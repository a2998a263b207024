from . import checkpoint_file as checkpoint_file
from . import to_keras as to_keras
from . import to_torch as to_torch
