from .run.evaluation import evaluate as evaluate
from .run.settings import Settings as Settings
from .step.fused import fused_twin as fused_twin
from .step.network import build_model as build_model
from .step.optimizer import build_optimizer as build_optimizer
from .step.training_model import compile_model as compile_model
from .trainer import train as train
