"""The weights of PyTorch and of other Keras programs, both ways."""
