"""Recognises a ConvMixer by the shapes of its tensors, whatever its modules are called.

One dense convolution from few channels makes the patches; each block has a depthwise convolution, a dense
1x1 convolution and two normalisations; one matrix or 1x1 convolution makes the classes. Knows neither
PyTorch nor Keras.
"""

import itertools
import re
from statistics import mode
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError, arg

# How programs call the four tensors of a normalisation, in PyTorch's order and under its names.
_NORM_NAMES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta", "shift", "offset"),
    "running_mean": ("running_mean", "moving_mean", "mean"),
    "running_var": ("running_var", "moving_var", "moving_variance", "variance", "var"),
}
_NAMED = 6  # How many modules an error names.


class _Module(NamedTuple):
    """A module's name, and the keys of its tensors by PyTorch's names for them: "weight", "bias", ..."""

    name: str
    keys: dict
    shape: tuple  # Of its weight.


def by_structure(tensors, source, include_top=True):
    """Says which tensor is which, from shapes and from the words and numbers in names.

    Takes a dict from name to an object with a `shape`, without counters, and gives one from (layer, tensor),
    such as ("block0_depthwise", "weight"), to the tensor's name, without biases that convolutions do not
    have. Without `include_top` classifiers are left out.
    """
    norms, modules, lost, other = _modules(tensors)
    stems, depthwise, pointwise, heads = _by_kind(modules)
    heads = heads if include_top else []
    depth = len(pointwise)
    bare = [module for module in (*stems, *depthwise, *pointwise, *heads) if "bias" not in module.keys]
    if len(bare) == 1:  # A program leaves out the biases of all layers of a kind.
        lost.append(f"{bare[0].name}.bias")
    if lost:
        raise InputError(
            f"{source} lacks {', '.join(lost[:_NAMED])} of a module whose other tensors are there "
            f"({arg('ignore')} leaves out what is not the network's)"
        )
    wanted = ((stems, 1, "patch embedding"), (depthwise, depth, "depthwise convolutions"))
    wanted += ((norms, 2 * depth + 1, "normalisations"), (heads, int(include_top), "classifier"))
    wrong = [f"{count} {what}, found {_names(found)}" for found, count, what in wanted if len(found) != count]
    if other:
        wrong.append(f"no other tensors, found {', '.join(other[:_NAMED])}")
    if wrong or not depth:
        raise InputError(
            f"{source} is not a ConvMixer by the shapes of its tensors. With {depth} dense 1x1 convolutions "
            f"there must be {'; '.join(wrong) or 'blocks'}. {arg('ignore')} leaves out tensors beside "
            f"the network, and {arg('prefix')} takes one of several networks"
        )
    _refuse_gaps([module.name for module in depthwise], source)

    convolutions = {"stem_conv": stems[0]}
    for i, pair in enumerate(zip(depthwise, pointwise, strict=True)):
        convolutions[f"block{i}_depthwise"], convolutions[f"block{i}_pointwise"] = pair
    parts = {}
    norms = _in_order(norms, convolutions.values(), source)
    for (layer, convolution), norm in zip(convolutions.items(), norms, strict=True):
        parts[layer], parts[f"{layer.removesuffix('_conv')}_bn"] = convolution, norm
    if heads:
        parts["head"] = heads[0]
    return {(layer, tensor): key for layer, module in parts.items() for tensor, key in module.keys.items()}


def _modules(tensors):
    """Sorts tensors into normalisations, modules of one kernel, what either lacks, and what is left over."""
    groups = {}
    for key in tensors:
        groups.setdefault(key.rpartition(".")[0], []).append(key)
    norms, modules, lost, other = [], [], [], []
    for name, keys in groups.items():
        named = _as_norm(keys)
        large = [key for key in keys if len(tensors[key].shape) > 1]
        small = [key for key in keys if len(tensors[key].shape) == 1]
        if not large and len(named) == len(keys) == len(_NORM_NAMES):
            norms.append(_Module(name, named, tensors[named["weight"]].shape))
        elif not large and len(named) == len(keys) == len(_NORM_NAMES) - 1:
            lost += [f"{name}.{tensor}" for tensor in _NORM_NAMES if tensor not in named]
        elif keys == small and named.keys() == {"bias"}:
            lost.append(f"{name}.weight")
        elif len(large) == 1 >= len(keys) - 1 == len(small) and len(tensors[large[0]].shape) in (2, 4):
            named = dict(zip(("weight", "bias"), large + small, strict=False))
            modules.append(_Module(name, named, tuple(tensors[large[0]].shape)))
        else:
            other += keys
    return norms, modules, lost, other


def _as_norm(keys):
    """Returns the keys of a normalisation's tensors by PyTorch's names for them."""
    ends = {key.rpartition(".")[2]: key for key in keys}
    return {ours: ends[theirs] for ours, known in _NORM_NAMES.items() for theirs in known if theirs in ends}


def _by_kind(modules):
    """Returns patch embeddings, depthwise, dense 1x1 convolutions and classifiers, each by their numbers."""
    width = mode(module.shape[0] for module in modules) if modules else 0
    stems, depthwise, pointwise, heads = [], [], [], []
    for module in sorted(modules, key=_by_number):
        if module.shape == (width, width, 1, 1):
            pointwise.append(module)
        elif len(module.shape) == 2 or module.shape[1:] == (width, 1, 1):
            heads.append(module)
        else:
            (depthwise if module.shape[1] == 1 else stems).append(module)
    if not stems and 1 < len(depthwise) == len(pointwise) + 1:  # Images of one channel.
        stems = [_odd_one_out(depthwise, pointwise)]
        depthwise.remove(stems[0])
    return stems, depthwise, pointwise, heads


def _odd_one_out(modules, pointwise):
    """Returns the patch embedding among depthwise kernels: of another size, kind of name, or place."""

    def alike(module):
        same = [other.shape == module.shape for other in modules]
        same += [_words(other.name) == _words(module.name) for other in modules]
        like_a_block = max(_likeness(module.name, other.name) for other in pointwise)
        return sum(same), like_a_block, _by_number(module)

    return min(modules, key=alike)


def _refuse_gaps(names, source):
    """Raises InputError unless the names of the depthwise convolutions are numbered evenly."""
    if len(set(map(_words, names))) > 1:
        raise InputError(
            f"{source}: the depthwise convolutions are not numbered: {', '.join(names[:_NAMED])}"
        )
    for numbers in zip(*(_tokens(name)[1::2] for name in names), strict=False):
        numbers = sorted(set(numbers))
        steps = [b - a for a, b in itertools.pairwise(numbers)]
        for number, step in zip(numbers, steps, strict=False):
            if step != min(steps):
                raise InputError(
                    f"{source} lacks a block, or has a layer without weights in its place: no depthwise "
                    f"convolution is numbered {number + min(steps)} like {names[0]}"
                )


def _in_order(norms, convolutions, source):
    """Returns normalisations in the order of the convolutions that they follow.

    Those of one kind of name come in the order of their numbers. Which kind follows the patch embedding, the
    depthwise and the pointwise convolutions is told by how much of their names they share.
    """
    kinds = {}
    for norm in sorted(norms, key=_by_number):
        kinds.setdefault(_words(norm.name), []).append(norm)
    orders = []
    if len(kinds) <= 3:
        for stem, *block in itertools.product(kinds, repeat=3):
            pattern = [stem, *block * (len(norms) // 2)]
            if all(pattern.count(kind) == len(members) for kind, members in kinds.items()):
                members = {kind: iter(found) for kind, found in kinds.items()}
                orders.append([next(members[kind]) for kind in pattern])

    def likeness(order):
        return sum(_likeness(norm.name, conv.name) for norm, conv in zip(order, convolutions, strict=True))

    best = max(map(likeness, orders), default=None)
    orders = [order for order in orders if likeness(order) == best]
    if len(orders) != 1:
        raise InputError(f"{source}: nothing tells which convolution each of {_names(norms)} follows")
    return orders[0]


def _likeness(one, other):
    """Counts the words and numbers that two names share at their beginnings, and the words that both have."""
    one, other = (re.findall(r"\d+|[A-Za-z]+", name) for name in (one, other))
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return len(list(same)) + sum(word.isalpha() for word in set(one) & set(other))


def _words(name):
    return re.sub(r"_?\d+", "", name)


def _tokens(name):
    """["blocks.", 10, ".bn", 1, ""]: words at even places, numbers at odd ones."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d{1,9})", name))]


def _by_number(module):
    return _tokens(module.name)


def _names(modules):
    names = [f"{module.name} {module.shape}" for module in modules]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)}: {', '.join(names[:_NAMED])}{more}" if names else "none"
