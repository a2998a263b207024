"""TFLite and ONNX files, the rewrite for inference, and the runtime without TensorFlow."""
