"""A model's graph, and those of the models nested in it."""

import keras


def producer(tensor):
    """Returns the layer or operation that gives a symbolic tensor, and the tensors that it takes."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, node.input_tensors


def calls(model):
    """Yields each call of a layer or operation in a model's own graph: it, and the node with its tensors."""
    seen, waiting = {id(tensor) for tensor in model.inputs}, list(model.outputs)
    while waiting:
        if id(tensor := waiting.pop()) in seen:
            continue
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        yield history.operation, node
        seen.update(map(id, node.output_tensors))
        waiting += node.input_tensors


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
