"""Recognises a ConvMixer by the shapes of its tensors, whatever its modules are called.

One dense convolution from few channels makes the patches; each block has a depthwise convolution, a dense
1x1 convolution and two normalisations; one matrix or 1x1 convolution makes the classes. Knows neither
PyTorch nor Keras.
"""

import itertools
import re
from collections import Counter
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


def by_structure(tensors, source, include_top=True, in_order=False):
    """Says which tensor is which, from shapes, numbers in names and, where it is kept, the order.

    Args:
        tensors: Dict from name to an object with a `shape`, without counters.
        source: The file's name, for messages.
        include_top: Whether there must be one classifier; otherwise matrices are left out.
        in_order: Whether the tensors come in the order in which the modules were defined.

    Returns:
        A dict from (layer, tensor), such as ("block0_depthwise", "weight"), to the tensor's name. Biases
        that the convolutions do not have are not in it.

    Raises:
        InputError: If the shapes are not a ConvMixer's. The message names what is missing or left over.
    """
    _refuse_separable(tensors, source)
    convolutions, norms, matrices, lost, other = _modules(tensors)
    stems, depthwise, pointwise, heads = _sorted_by_kind(convolutions)
    heads = heads + matrices if include_top else []
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

    parts = {"stem_conv": stems[0]}
    blocks = _blocks(depthwise, pointwise, norms, stems[0], source, in_order)
    parts["stem_bn"] = blocks.pop(None)
    for i, (depthwise_conv, depthwise_bn, pointwise_conv, pointwise_bn) in blocks.items():
        parts |= {f"block{i}_depthwise": depthwise_conv, f"block{i}_depthwise_bn": depthwise_bn}
        parts |= {f"block{i}_pointwise": pointwise_conv, f"block{i}_pointwise_bn": pointwise_bn}
    if heads:
        parts["head"] = heads[0]
    return {(layer, tensor): key for layer, module in parts.items() for tensor, key in module.keys.items()}


def _refuse_separable(tensors, source):
    """Raises InputError for depthwise kernels of one row or one column, which make another network."""
    for key, tensor in tensors.items():
        if len(tensor.shape) == 4 and tensor.shape[1] == 1 == min(tensor.shape[2:]) < max(tensor.shape[2:]):
            height, width = tensor.shape[2:]
            raise InputError(
                f"{source} has separable depthwise kernels: {key} is {height}x{width}. A ConvMixer's are "
                "square, and a pair of 1-dimensional ones is another network"
            )


def _modules(tensors):
    """Sorts tensors into modules.

    Returns:
        Lists of the convolutions, normalisations and matrices; of the names of tensors that one of these
        lacks; and of those that are left over.
    """
    groups = {}
    for key in tensors:
        groups.setdefault(key.rpartition(".")[0], []).append(key)
    convolutions, norms, matrices, lost, other = [], [], [], [], []
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
            shape = tuple(tensors[large[0]].shape)
            module = _Module(name, dict(zip(("weight", "bias"), large + small, strict=False)), shape)
            (matrices if len(shape) == 2 else convolutions).append(module)
        else:
            other += keys
    return convolutions, norms, matrices, lost, other


def _as_norm(keys):
    """Returns the keys of a normalisation's tensors by PyTorch's names for them."""
    ends = {key.rpartition(".")[2]: key for key in keys}
    return {ours: ends[theirs] for ours, known in _NORM_NAMES.items() for theirs in known if theirs in ends}


def _sorted_by_kind(convolutions):
    """Returns the patch embedding, the depthwise and the dense 1x1 convolutions by number, the classifier."""
    if not convolutions:
        return [], [], [], []
    width = Counter(module.shape[0] for module in convolutions).most_common(1)[0][0]
    pointwise = [module for module in convolutions if module.shape == (width, width, 1, 1)]
    heads = [module for module in convolutions if module.shape[1:] == (width, 1, 1)]
    heads = [module for module in heads if module not in pointwise]
    rest = [module for module in convolutions if module not in (*pointwise, *heads)]
    stems = [module for module in rest if module.shape[1] > 1]
    depthwise = [module for module in rest if module.shape[1] == 1]
    if not stems and len(depthwise) == len(pointwise) + 1:  # Images of one channel.
        stems = [_odd_one_out(depthwise, pointwise)]
        depthwise.remove(stems[0])
    return stems, sorted(depthwise, key=_by_number), sorted(pointwise, key=_by_number), heads


def _odd_one_out(modules, pointwise):
    """Returns the patch embedding among depthwise kernels: of another size, kind of name, or place."""
    for feature in (lambda module: module.shape, lambda module: _words(module.name)):
        counts = Counter(map(feature, modules))
        single = [module for module in modules if counts[feature(module)] == 1]
        if len(single) == 1:
            return single[0]

    def like_a_block(module):
        return max(_likeness(module.name, other.name) for other in pointwise)

    return min(modules, key=lambda module: (like_a_block(module), _by_number(module)))


def _blocks(depthwise, pointwise, norms, stem, source, in_order):
    """Returns a dict from block number to its four modules, and from None to the stem's normalisation."""
    place = _numbering([module.name for module in depthwise], source)
    kinds = (depthwise, pointwise, norms)
    if place is None and len(depthwise) == 1:
        stem_norm, *others = _matched(norms, [stem, *depthwise, *pointwise], source, in_order)
        return {0: (depthwise[0], others[0], pointwise[0], others[1]), None: stem_norm}
    members = {}
    for kind, modules in enumerate(kinds):
        for module in modules:
            members.setdefault(place(module.name), ([], [], []))[kind].append(module)
    numbers = [None, *range(len(depthwise))]
    if all(
        [len(found) for found in members.get(number, ())] == ([0, 0, 1] if number is None else [1, 1, 2])
        for number in numbers
    ):
        blocks = {None: members.pop(None)[2][0]}
        for number, ((spatial,), (dense,), pair) in sorted(members.items()):
            first, second = _matched(pair, [spatial, dense], source, in_order)
            blocks[number] = (spatial, first, dense, second)
        return blocks
    # Numbered kind by kind, as Keras does: conv2d_1, conv2d_2, batch_normalization_1, ...
    if all(len({_words(module.name) for module in modules}) == 1 for modules in kinds):
        first, *rest = sorted(norms, key=_by_number)
        return {None: first} | {
            i: (depthwise[i], rest[2 * i], pointwise[i], rest[2 * i + 1]) for i in range(len(depthwise))
        }
    raise InputError(f"{source}: cannot tell which block each of these belongs to: {_names(norms)}")


def _numbering(names, source):
    """Returns a function from a module's name to the number of its block, or None outside of the blocks.

    The number is where the names of the depthwise convolutions differ. Of 3.fn.0, 7.fn.0, ... the modules
    3 to 6 are a block.
    """
    split = [_tokens(name) for name in names]
    at = next((i for i, tokens in enumerate(zip(*split, strict=False)) if len(set(tokens)) > 1), None)
    if at is None or at % 2 == 0:  # Words differ, no number.
        if len(names) > 1:
            raise InputError(
                f"{source}: the depthwise convolutions are not numbered: {', '.join(names[:_NAMED])}"
            )
        return None
    before, starts = split[0][:at], [tokens[at] for tokens in split]
    step = min(b - a for a, b in itertools.pairwise(starts))
    gaps = [a + step for a, b in itertools.pairwise(starts) if b - a != step]
    if gaps:
        raise InputError(
            f"{source} lacks a block: no depthwise convolution is numbered {gaps[0]} like {names[0]}"
        )

    def number(name):
        tokens = _tokens(name)
        if tokens[:at] != before or len(tokens) <= at:
            return None
        block = (tokens[at] - starts[0]) // step
        return block if 0 <= block < len(starts) else None

    return number


def _matched(norms, convolutions, source, in_order):
    """Returns normalisations in the order of the convolutions that they follow.

    Those with more of their name in common belong together; where that is undecided, bn1 comes before bn2,
    and what was defined first before what was defined later.
    """
    kinds = {}
    for i, norm in enumerate(norms if in_order else sorted(norms, key=_by_number)):
        kinds.setdefault(_words(norm.name), i)
    norms = sorted(norms, key=lambda norm: (kinds[_words(norm.name)], _by_number(norm)))

    def likeness(order):
        return sum(_likeness(norm.name, conv.name) for norm, conv in zip(order, convolutions, strict=True))

    orders = list(itertools.permutations(norms))
    best = max(map(likeness, orders))
    orders = [order for order in orders if likeness(order) == best]
    if not in_order and len({tuple(_words(norm.name) for norm in order) for order in orders}) > 1:
        raise InputError(
            f"{source}: nothing tells which convolution each of {_names(norms)} follows; a .pth file of the "
            "same network keeps their order"
        )
    return orders[0]


def _likeness(one, other):
    """Counts the words and numbers that two names share at their beginnings, and the words at their ends."""
    one, other = (re.findall(r"\d+|[A-Za-z]+", name) for name in (one, other))
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    ends = zip(reversed(one), reversed(other), strict=False)
    same_end = itertools.takewhile(lambda pair: pair[0] == pair[1] and not pair[0].isdigit(), ends)
    return len(list(same)) + len(list(same_end))


def _words(name):
    return re.sub(r"\d+|_\d+", "", name)


def _tokens(name):
    """["blocks.", 10, ".bn", 1, ""]: words at even places, numbers at odd ones."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d{1,9})", name))]


def _by_number(module):
    return _tokens(module.name)


def _names(modules):
    names = [f"{module.name} {module.shape}" for module in modules]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)}: {', '.join(names[:_NAMED])}{more}" if names else "none"
