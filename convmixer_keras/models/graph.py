"""A model's graph, followed from its output to its input through the models nested in it."""

import keras


def producer(tensor):
    """Returns the layer or operation that gives a symbolic tensor, and the tensors that it takes."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, node.input_tensors


def inside(model, tensor):
    """Returns the tensor of a nested model's own graph that leaves it as `tensor`."""
    return model.outputs[tensor._keras_history.tensor_index]


def has_graph(layer):
    """Whether a layer is a model made of layers, and not a class with code of its own."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "outputs", None))


def layers(model):
    """Yields the layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers(layer)
        else:
            yield layer


class Walk:
    """Goes from a model's output towards its input, one layer at a time.

    Attributes:
        tensor: Where the walk stands.
        layer: The layer that gives this tensor: none that only holds others.
        taken: The tensors that this layer takes.
    """

    def __init__(self, model):
        self.around = ()  # For each nested model that the walk is in, what its inputs are outside.
        self.to(model.outputs[0])

    def to(self, tensor):
        """Goes to a tensor that the layer takes."""
        self.tensor = tensor
        self.layer, self.taken = producer(tensor)
        if has_graph(self.layer):
            outside = dict(zip(map(id, self.layer.inputs), self.taken, strict=True))
            self.around = (*self.around, outside)
            self.to(inside(self.layer, tensor))
        elif self.around and isinstance(self.layer, keras.layers.InputLayer):
            *self.around, outside = self.around
            self.to(outside[id(tensor)])
