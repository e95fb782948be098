"""TokenTM with one N x N matrix over all inputs, layer by layer, head by head.

(12, 13)  w_i = |T_i| / |E_i| * exp cos(E_i, T_i) / sum_k exp cos(E_k, T_k)
(14, 15)  U = I + mean over heads of (dA)+ * A diag(w),  T = E W_V W_O of the head
(16, 17)  U = I + diag(w),  T = FFN(E)
(18)      C = U_L ... U_1 diag(|E^0|)

The other published reading: T is the stream after the attention, or after the feed-forward branch,
and U = I + mean(A) diag(w) * mean((dA)+).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from . import mappers
from .records import _softmaxes


@dataclass(frozen=True)
class Attending:
    """One attention: `before` is E of its keys, `after` their stream behind their own attention.

    `into` and `back` are the weights of the value and the output projection, as nn.Linear has them.
    """

    rows: Tensor
    columns: Tensor
    attention: Tensor
    gradient: Tensor
    before: Tensor
    after: Tensor
    into: Tensor
    back: Tensor
    step: int


@dataclass(frozen=True)
class Feeding:
    """One feed-forward branch: what it was computed from and added to, and what it adds."""

    rows: Tensor
    before: Tensor
    added: Tensor
    step: int


@dataclass(frozen=True)
class Sequence_:
    """All updates of one example, the lengths of its tokens at the start, and the row read."""

    updates: list[Attending | Feeding]
    lengths: Tensor


def token_map(
    found: Sequence_,
    *,
    reading: str = "paper",
    length: bool = True,
    necc: bool = True,
    initialization: bool = True,
    mhsa: bool = True,
    ffn: bool = True,
) -> Tensor:
    """C after the last layer (eq. 18)."""
    size = len(found.lengths)
    total = torch.eye(size, dtype=torch.float64)
    if initialization:
        total = torch.diag(found.lengths)
    for _, group in groupby(found.updates, key=lambda update: update.step):
        update = torch.eye(size, dtype=torch.float64)
        for one in group:
            if isinstance(one, Attending):
                part = _attention_part(one, reading, length, necc, mhsa)
                update[one.rows[:, None], one.columns] += part
            elif ffn:
                after = one.added if reading == "paper" else one.before + one.added
                update[one.rows, one.rows] += weights(one.before, after, length, necc)
        total = update @ total
    return total


def _attention_part(one: Attending, reading: str, length: bool, necc: bool, mhsa: bool) -> Tensor:
    heads = one.attention.shape[0]
    gradient = torch.relu(one.gradient)
    ones = torch.ones(one.attention.shape[-1], dtype=torch.float64)
    if reading == "libragrad":
        w = weights(one.before, one.after, length, necc) if mhsa else ones
        return one.attention.mean(0) @ torch.diag(w) * gradient.mean(0)
    parts = []
    size = one.into.shape[0] // heads
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        transformed = one.before @ one.into[mine].T @ one.back[:, mine].T
        w = weights(one.before, transformed, length, necc) if mhsa else ones
        parts.append(gradient[head] * (one.attention[head] @ torch.diag(w)))
    return torch.stack(parts).mean(0)


def weights(before: Tensor, after: Tensor, length: bool = True, necc: bool = True) -> Tensor:
    """W of eq. 12, token by token."""
    found = []
    for one, other in zip(before, after, strict=True):
        ratio = other.norm() / one.norm()
        cosines = torch.cosine_similarity(before, after, dim=-1)
        own = torch.cosine_similarity(one, other, dim=0)
        share = own.exp() / cosines.exp().sum()
        found.append((ratio if length else 1) * (share if necc else 1))
    return torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in found])


@dataclass(frozen=True)
class Seen:
    """What went in and out of every module, and the attention maps with their gradients."""

    network: nn.Module
    given: dict[str, list[Any]]
    returned: dict[str, Any]
    maps: list[tuple[Tensor, Tensor]]

    def into(self, path: str, position: int = 0) -> Tensor:
        return self.given[path][position].detach()[0].double()

    def out_of(self, path: str) -> Tensor:
        return self.returned[path].detach()[0].double()

    def weight(self, path: str) -> Tensor:
        return self.network.get_submodule(path).weight.detach().double()


def see(network: nn.Module, inputs: Mapping[str, Any], target: Callable[[Any], Tensor]) -> Seen:
    """Run an eager network on one example."""
    given: dict[str, list[Any]] = {}
    returned: dict[str, Any] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given[name] = [*args, *kwargs.values()]
            returned[name] = output[0] if isinstance(output, tuple) else output

        return note

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in network.named_modules()
    ]
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    with _softmaxes() as maps:
        value = target(network(**inputs)).sum()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(value, maps, allow_unused=True)
    pairs = [
        (one.detach()[0].double(), torch.zeros_like(one)[0] if own is None else own[0].double())
        for one, own in zip(maps, gradients, strict=True)
    ]
    return Seen(network, given, returned, pairs)


def vit(seen: Seen, depth: int = 2) -> Sequence_:
    """Normalised before."""
    start = seen.into("vit.layers.0.layernorm_before")
    rows = torch.arange(len(start))
    updates: list[Attending | Feeding] = []
    for i in range(depth):
        path = f"vit.layers.{i}"
        middle = seen.into(f"{path}.layernorm_after")
        updates += [
            Attending(
                rows, rows, *seen.maps[i], seen.into(f"{path}.layernorm_before"), middle,
                seen.weight(f"{path}.attention.v_proj"), seen.weight(f"{path}.attention.o_proj"),
                step=2 * i,
            ),
            Feeding(rows, middle, seen.out_of(f"{path}.mlp"), step=2 * i + 1),
        ]  # fmt: skip
    return Sequence_(updates, start.norm(dim=-1))


def bert(seen: Seen, depth: int = 2) -> Sequence_:
    """Normalised after."""
    start = seen.into("bert.encoder.layer.0.attention.self")
    rows = torch.arange(len(start))
    updates: list[Attending | Feeding] = []
    for i in range(depth):
        path = f"bert.encoder.layer.{i}"
        updates += [
            Attending(
                rows, rows, *seen.maps[i], seen.into(f"{path}.attention.self"),
                seen.into(f"{path}.attention.output.LayerNorm"),
                seen.weight(f"{path}.attention.self.value"),
                seen.weight(f"{path}.attention.output.dense"), step=2 * i,
            ),
            Feeding(
                rows, seen.into(f"{path}.intermediate"), seen.out_of(f"{path}.output.dense"),
                step=2 * i + 1,
            ),
        ]  # fmt: skip
    return Sequence_(updates, start.norm(dim=-1))


IMAGE = torch.arange(1 + mappers.PATCHES)
TEXT = torch.arange(mappers.WORDS) + len(IMAGE)
QUESTION = torch.arange(mappers.QUESTION) + len(IMAGE) + len(TEXT)


def mapper(seen: Seen) -> Sequence_:
    """The networks of `mappers`."""
    numbers = {"image": IMAGE, "text": TEXT, "question": QUESTION}
    starts = [seen.into(f"towers.{name}.0") for name in ("image", "text")]
    updates: list[Attending | Feeding] = []
    for index, one in enumerate(seen.network.sublayers()):
        rows, columns = (torch.cat([numbers[name] for name in names])
                         for names in (one.queries, one.keys))  # fmt: skip
        path = one.stream[0]
        own = path  # where the keys are the queries
        if one.queries != one.keys:
            own = _SWAPPED.get(path.rpartition(".")[2], "")
            own = own and f"{path.rpartition('.')[0]}.{own}"
        if own:
            before, after = seen.into(own), _behind(seen, own)
        else:  # the joint sequence is only read
            before = after = seen.into(f"{path}.attention", 1)
        projections = [seen.weight(f"{path}.attention.{name}") for name in ("value", "out")]
        updates.append(
            Attending(rows, columns, *seen.maps[index], before, after, *projections, 2 * one.step)
        )
        perceptron = _perceptron(path)
        if perceptron and perceptron in seen.given:
            middle, added = seen.into(perceptron), seen.out_of(f"{perceptron}.inner")
            updates.append(Feeding(rows, middle, added, step=2 * one.step + 1))
    if "own.0" in seen.given:
        starts.append(seen.into("own.0"))
    return Sequence_(_in_order(updates), torch.cat([one.norm(dim=-1) for one in starts]))


_SWAPPED = {"image_cross": "text_cross", "text_cross": "image_cross"}


def _behind(seen: Seen, path: str) -> Tensor:
    layer = seen.network.get_submodule(path)
    return seen.out_of(path) if layer.norm_first else seen.into(f"{path}.norm")


def _perceptron(path: str) -> str:
    """The feed-forward sub-layer that follows an attention, by the names in `mappers`."""
    for attention, perceptron in (
        ("towers.image.0", "towers.image.1"),
        ("towers.text.0", "towers.text.1"),
        ("attentions.", "perceptrons."),
        ("image_cross", "image_last"),
        ("text_cross", "text_last"),
    ):
        if attention in path:
            return path.replace(attention, perceptron)
    return ""


def _in_order(updates: Sequence[Attending | Feeding]) -> list[Attending | Feeding]:
    return sorted(updates, key=lambda update: update.step)
