from . import mobile as mobile
from . import onnx as onnx
from . import runtime as runtime
from . import tflite as tflite
