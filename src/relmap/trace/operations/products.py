"""Matrix products: one rule for linear, matmul, bmm, einsum and their kin.

Every product is written as letters, one per axis, as in an einsum. What matters is along which
letters tokens vary: a product of two sets of tokens over a feature letter gives scores; scores
normalised over a letter and contracted over it with values are an attention; tokens contracted with
weights over a feature letter stay the same tokens, over a token letter they are merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from relmap.trace.calls import Call, constant_along
from relmap.trace.labels import Labels
from relmap.trace.operations.attention import Lettered, attend
from relmap.trace.operations.sums import add_to_product, weighted_parts
from relmap.trace.tags import FOLDED, Constant, Lost, Pair, Tag, Tokens, activation

_BATCH = "ABCDEFGHIJKLMNOP"


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A product of two tensors, each with a letter per axis."""

    left: Tensor
    right: Tensor
    left_letters: str
    right_letters: str
    out_letters: str
    added: Tensor | None = None


def contract(call: Call) -> Tag | None:
    """The rule of all matrix products."""
    product = _product(call)
    if product is None:
        return call.lost("is a product of a form relmap does not read")
    left, right = (_tokens_only(call.tag_of(t)) for t in (product.left, product.right))
    for tag in (left, right):
        if isinstance(tag, Lost):
            return tag
    if isinstance(left, Pair) and isinstance(right, Pair):
        return call.lost("multiplies two attention maps")
    tag: Tag | None
    if isinstance(left, Pair) or isinstance(right, Pair):
        tag = _with_pair(call, product, left, right)
    elif isinstance(left, Tokens) and isinstance(right, Tokens):
        tag = _two_tokens(call, product, left, right)
    elif isinstance(left, Tokens):
        weights = (product.right, product.right_letters)
        tag = _weighted(call, left, (product.left, product.left_letters), weights, product)
    elif isinstance(right, Tokens):
        weights = (product.left, product.left_letters)
        tag = _weighted(call, right, (product.right, product.right_letters), weights, product)
    else:
        return call.tag_of(product.added) if product.added is not None else None
    return _with_added(call, product, tag)


def _weighted(
    call: Call, tag: Tokens, tokens: tuple[Tensor, str], weights: tuple[Tensor, str], to: Product
) -> Tag:
    """Tokens times constants."""
    summed = weighted_parts(call, tag, tokens[1], weights, to.out_letters)
    return summed or _with_weights(call, tag, *tokens, to.out_letters)


def _tokens_only(tag: Tag | None) -> Tokens | Pair | Lost | None:
    return None if isinstance(tag, Constant) else tag


def _with_added(call: Call, product: Product, tag: Tag | None) -> Tag | None:
    """Baddbmm and addmm add a tensor: a bias (nothing changes) or more scores."""
    added = None if product.added is None else _tokens_only(call.tag_of(product.added))
    if isinstance(added, Lost) or added is None or isinstance(tag, (Lost, Pair)):
        return added if isinstance(added, Lost) else tag
    if isinstance(tag, Tokens) and isinstance(added, Tokens) and product.added is not None:
        return add_to_product(call, product.added, added, tag)
    return call.lost("adds tokens to a product")


def _with_weights(call: Call, tag: Tokens, tensor: Tensor, letters: str, out: str) -> Tag:
    gone = [axis for axis, letter in enumerate(letters) if letter not in out]
    if tag.state.kind == "input":
        tag = call.notebook.tokens_of_input(tensor, tag, gone)
    if any(axis in tag.labels.varying for axis in gone):
        features = [a for a in range(tensor.ndim) if a in gone or a not in tag.labels.varying]
        numbers = Labels.number(tag.labels.shape, features)
        mixed = _mixes_tokens(call, tag, letters, out)
        tag = call.notebook.merge(tag, tensor, numbers, tag.labels)
        tag.state.scrambled = mixed
    node = call.notebook.node(tag.node)
    if call.notebook.taped:
        node.read = activation(tensor, tag.labels, value=False)
    labels = tag.labels.project(letters, out, call.shape)
    tag.state.projected = True
    return Tokens(tag.state, labels, node, tag.pending)


def _mixes_tokens(call: Call, tag: Tokens, letters: str, out: str) -> bool:
    """Whether weights make several tokens of several tokens, feature by feature.

    Tokens folded into the features of fewer tokens, or summed up into a single one, are merged; so
    are streams of the same tokens side by side, which lie outside of the examples.
    """
    sizes = zip(out, call.shape, strict=True)
    many = any(size > 1 and letter not in letters for letter, size in sizes)
    features = [
        axis for axis, letter in enumerate(letters)
        if letter in out and axis not in tag.labels.varying and tag.labels.shape[axis] > 1
    ]  # fmt: skip
    return many and bool(features) and not _outermost(tag, letters, out)


def _outermost(tag: Tokens, letters: str, out: str) -> bool:
    """Whether tokens are numbered along what is left of them before they are along what goes."""
    steps: dict[bool, list[int]] = {True: [], False: []}
    for axis in tag.labels.varying:
        pair = tag.labels.values.movedim(axis, 0)[:2].flatten(1)[:, 0]
        steps[letters[axis] in out].append(abs(int(pair[1] - pair[0])))
    return bool(steps[True]) and min(steps[False], default=0) > max(steps[True])


def _two_tokens(call: Call, product: Product, left: Tokens, right: Tokens) -> Tag:
    sides: list[Tokens] = []
    shared = (set(product.left_letters) & set(product.right_letters)) - set(product.out_letters)
    for tag, tensor, letters in (
        (left, product.left, product.left_letters),
        (right, product.right, product.right_letters),
    ):
        if tag.state.kind == "input":
            features = [letters.index(letter) for letter in shared]
            tag = call.notebook.tokens_of_input(tensor, tag, features)
        if any(letters.index(letter) in tag.labels.varying for letter in shared):
            return _gated_merge(call, product, left, right)
        settled = call.notebook.settle(tag, tensor)
        labels = settled.labels.project(letters, product.out_letters, call.shape)
        sides.append(Tokens(settled.state, labels, tag.node))
    rows, columns = sides
    if rows.labels.varying == columns.labels.varying and not _single(call, product):
        if len(rows.labels.varying) <= 1 and _is_square(call, product):
            return call.lost("makes scores between tokens that cannot be told apart any more")
        if rows.state is columns.state and rows.labels.same_as(columns.labels):
            return Tokens(rows.state, rows.labels, call.notebook.node(left.node, right.node))
        return call.lost("multiplies tokens of two states token by token")
    if call.notebook.taped:
        left.node.scored = _vectors(product.left, product.left_letters, shared)
        right.node.scored = _vectors(product.right, product.right_letters, shared)
    return Pair(rows, columns, (left.node, right.node))


def _vectors(tensor: Tensor, letters: str, shared: set[str]) -> Tensor | None:
    """An operand of scores with its token and feature axes last, in this order."""
    if len(shared) != 1:
        return None
    axis = letters.index(next(iter(shared)))
    return tensor.detach() if axis == tensor.ndim - 1 else tensor.detach().transpose(axis, -1)


def _is_square(call: Call, product: Product) -> bool:
    """Whether both operands bring an own letter of size > 1 along which no tokens vary."""
    sizes = dict(zip(product.out_letters, call.shape, strict=True))
    own = [
        [letter for letter in mine if letter in sizes and letter not in theirs]
        for mine, theirs in (
            (product.left_letters, product.right_letters),
            (product.right_letters, product.left_letters),
        )
    ]
    return all(any(sizes[letter] > 1 for letter in letters) for letters in own)


def _gated_merge(call: Call, product: Product, left: Tokens, right: Tokens) -> Tag:
    """Tokens summed over a token letter with factors computed from each token (AltUp): a merge.

    Where both operands vary along the letter it is linear or channel attention, which is refused.
    """
    shared = (set(product.left_letters) & set(product.right_letters)) - set(product.out_letters)
    sides = (
        (left, product.left, product.left_letters), (right, product.right, product.right_letters)
    )  # fmt: skip
    varies = [
        any(letters.index(letter) in tag.labels.varying for letter in shared)
        for tag, _, letters in sides
    ]
    if all(varies):
        return call.lost("sums products of tokens over tokens (linear or channel attention)")
    summed, factors = sides if varies[0] else sides[::-1]
    placed = [
        tag.labels.project(letters, product.out_letters, call.shape).varying
        for tag, _, letters in (_without(summed, shared), factors)
    ]
    if not set(placed[1]) <= set(placed[0]):
        return call.lost("sums products of tokens over tokens (linear or channel attention)")
    merged = _with_weights(call, summed[0], summed[1], summed[2], product.out_letters)
    assert isinstance(merged, Tokens)
    node = call.notebook.node(merged.node, factors[0].node)
    return Tokens(merged.state, merged.labels, node)


def _without(side: tuple[Tokens, Tensor, str], letters: set[str]) -> tuple[Tokens, Tensor, str]:
    """A side whose summed letters are seen as features."""
    tag, tensor, names = side
    values = tag.labels.values
    for letter in letters:
        values = values.narrow(names.index(letter), 0, 1)
    return Tokens(tag.state, Labels(tag.labels.shape, values), tag.node), tensor, names


def _single(call: Call, product: Product) -> bool:
    """Whether both own letters have size 1: scores of one query and one key."""
    own = set(product.left_letters) ^ set(product.right_letters)
    sizes = [size for letter, size in zip(product.out_letters, call.shape, strict=True)
             if letter in own]  # fmt: skip
    return all(size == 1 for size in sizes)


def _with_pair(call: Call, product: Product, left: Any, right: Any) -> Tag | None:
    swap = isinstance(right, Pair)
    pair: Pair = right if swap else left
    other = left if swap else right
    letters, other_letters = product.left_letters, product.right_letters
    tensor, value = product.left, product.right
    if swap:
        letters, other_letters, tensor, value = other_letters, letters, value, tensor
    gone = [letter for letter in letters if letter not in product.out_letters]
    if len(gone) != 1:
        return call.lost("contracts scores over several axes")
    axis = letters.index(gone[0])
    pair = Pair(constant_along(pair.rows, axis), pair.columns, pair.nodes, pair.axis)
    varies = [
        side is not None and axis in side.labels.varying for side in (pair.rows, pair.columns)
    ]
    if pair.axis == FOLDED and (varies[0] or not varies[1]):
        return call.lost("reads an attention map whose keys cannot be told apart any more")
    over_tokens = any(varies) or axis == pair.axis
    if not over_tokens:
        return _heads_mixed(call, pair, letters, product.out_letters)
    if pair.axis is None and not _sums_to_one(tensor, axis):
        return call.lost("multiplies scores that were never normalised with values")
    if pair.axis not in (None, FOLDED, axis):
        return call.lost("contracts an attention map over its queries")
    if varies[0] and not varies[1]:
        pair = Pair(pair.columns, pair.rows, pair.nodes, axis)
    if other is None and pair.rows is not None and _by_position(pair, letters, other_letters):
        # Learned values read by relative position: a bias of the row tokens.
        labels = pair.rows.labels.project(letters, product.out_letters, call.shape)
        return Tokens(pair.rows.state, labels, call.notebook.node(pair.rows.node))
    maps, values = Lettered(tensor, letters), Lettered(value, other_letters, other)
    return attend(call, pair, maps, values, product.out_letters)


def _by_position(pair: Pair, letters: str, value_letters: str) -> bool:
    """Whether constant values belong to (query, key) pairs: relative positions, not tokens."""
    if pair.rows is None or pair.columns is None:
        return False
    own = set(pair.rows.labels.varying) - set(pair.columns.labels.varying)
    return bool(own) and all(letters[axis] in value_letters for axis in own)


def _heads_mixed(call: Call, pair: Pair, letters: str, out: str) -> Pair:
    def side(tokens: Tokens | None) -> Tokens | None:
        if tokens is None:
            return None
        return Tokens(tokens.state, tokens.labels.project(letters, out, call.shape), tokens.node)

    axis = pair.axis
    if axis is not None and axis != FOLDED:
        axis = out.index(letters[axis])
    return Pair(side(pair.rows), side(pair.columns), pair.nodes, axis)


def _sums_to_one(scores: Tensor, axis: int) -> bool:
    total = scores.detach().float().sum(axis)
    return bool((scores.detach() >= 0).all()) and bool((total - 1).abs().max() < 1e-3)


def _product(call: Call) -> Product | None:
    name = call.name
    if name in ("linear", "_grouped_mm"):
        weight = call.argument(1, "weight" if name == "linear" else "mat2", None)
        left = call.argument(0, "input", None)
        lead = _BATCH[: left.ndim - 1]
        if weight.ndim == 1:
            return Product(left, weight, lead + "c", "c", lead)
        if name == "_grouped_mm":
            return Product(left, weight, lead + "c", "ecj"[-weight.ndim :], lead + "j")
        return Product(left, weight, lead + "c", "jc", lead + "j")
    if name in ("addmm", "baddbmm", "addbmm", "addmv"):
        added, left, right = (call.argument(i, n, None) for i, n in
                              enumerate(("input", "batch1", "batch2")))  # fmt: skip
        product = _matrix_product(left, right)
        return Product(*(getattr(product, n) for n in _PRODUCT_FIELDS), added=added)
    if name == "einsum":
        return _einsum(call.args)
    left, right = call.subject, call.argument(1, "other")
    if name == "rmatmul":
        left, right = right, left
    return _matrix_product(left, right)


_PRODUCT_FIELDS = ("left", "right", "left_letters", "right_letters", "out_letters")


def _matrix_product(left: Tensor, right: Tensor) -> Product:
    lead = _BATCH[: max(left.ndim, right.ndim, 2) - 2]
    left_letters = "c" if left.ndim == 1 else lead[len(lead) - left.ndim + 2 :] + "ic"
    right_letters = "c" if right.ndim == 1 else lead[len(lead) - right.ndim + 2 :] + "cj"
    out = lead + ("i" if left.ndim > 1 else "") + ("j" if right.ndim > 1 else "")
    return Product(left, right, left_letters, right_letters, out)


def _einsum(args: tuple[Any, ...]) -> Product | None:
    operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    if not isinstance(args[0], str) or len(operands) != 2:
        return None
    inputs, arrow, out = args[0].replace(" ", "").partition("->")
    letters = list(inputs.split(","))
    if not arrow:
        seen = "".join(letters)
        out = "".join(sorted(letter for letter in set(seen) if seen.count(letter) == 1))
    if "..." in args[0]:
        rank = max(t.ndim - len(part.replace("...", "")) for part, t in
                   zip(letters, operands, strict=True) if "..." in part)  # fmt: skip
        free = [letter for letter in _BATCH + _BATCH.lower() if letter not in args[0]][:rank]
        for position, part in enumerate(letters):
            used = operands[position].ndim - len(part.replace("...", ""))
            letters[position] = part.replace("...", "".join(free[rank - used :]))
        out = out.replace("...", "".join(free))
    if any(len(set(part)) != len(part) for part in letters):
        return None
    return Product(operands[0], operands[1], letters[0], letters[1], out)
