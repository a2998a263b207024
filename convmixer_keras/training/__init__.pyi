from .evaluation import evaluate as evaluate
from .network import build_model as build_model
from .optimizer import build_optimizer as build_optimizer
from .settings import Settings as Settings
from .trainer import compile_model as compile_model
from .trainer import train as train
