"""How an architecture enters the collection.

Every entry is a small function under the decorator `architecture`. It returns a configuration (for
a class of transformers) or a finished network, together with the keyword arguments of one forward.
The decorator says what is true of the model and can be counted without any recorder: how many
attentions one forward executes, or why the model cannot be explained.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from .weights import calibrate, enlarge

Target = Callable[[Any], Tensor]
Made = tuple[Any, dict[str, Any]]

KNOWN_CLASSES = frozenset(dir(transformers))


@dataclasses.dataclass(frozen=True)
class Built:
    """A tiny network with the inputs of one forward and what to explain (None: the default)."""

    network: nn.Module
    inputs: dict[str, Any]
    target: Target | None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What is known of an architecture before anything is recorded.

    `attentions` counts the attentions that one forward executes: products of weights with values,
    not layers. `mixers` counts the parts that mix tokens by something else; attentions inside of
    them do not count. `sdpa_mixers` are parts that are mixers, instead, where a kernel multiplies
    one map with values several times and shows none of it. `unread` says how many attentions the
    target does not depend on. `refused` is a word of the reason why the model has no token graph;
    unless `sources` is False, methods that read nothing but the tokens that enter explain it all
    the same. `approximate` marks a local convolution or pooling between the tokens and their
    queries, keys or values; `local` marks one elsewhere.
    """

    name: str
    family: str
    make: Callable[..., Made]
    attentions: int
    unread: int = 0
    class_name: str | None = None
    mixers: int = 0
    sdpa_mixers: int = 0
    refused: str | None = None
    sources: bool = True
    approximate: bool = False
    local: bool = False
    target: Target | None = None
    eager_only: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def implementations(self) -> tuple[str | None, ...]:
        """The attention implementations that can be asked for; None is the only one there is."""
        if self.family != "transformers":
            return (None,)
        return ("eager",) if self.eager_only else ("eager", "sdpa")

    def build(self, implementation: str | None = None, seed: int = 0) -> Built:
        """Build the network in eval mode with enlarged weights; the same seed, the same numbers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, inputs = self._made(implementation)
            enlarge(network)
            calibrate(network.eval(), inputs)
        return Built(network, inputs, self.target)

    def _made(self, implementation: str | None) -> tuple[nn.Module, dict[str, Any]]:
        if self.class_name is None:
            return self.make(**self.settings)
        kind = getattr(transformers, self.class_name)
        made, inputs = self.make(kind, **self.settings)
        if isinstance(made, nn.Module):
            return made, inputs
        if implementation is not None:
            made._attn_implementation = _by_part(made, implementation)
        return kind(made), inputs


def _by_part(config: Any, implementation: str) -> str | dict[str, str]:
    """Convolutional backbones refuse any implementation but eager."""
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) == "resnet":
        return {"": implementation, "backbone_config": "eager"}
    return implementation


ARCHITECTURES: dict[str, Architecture] = {}
SKIPPED: dict[str, str] = {}


def architecture(
    name: str,
    class_name: str | None = None,
    *,
    attentions: int,
    family: str = "transformers",
    **declared: Any,
) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Register a function as the builder of `name`; decorators may be stacked on one function.

    What is not a field of `Architecture` is handed to the function as a keyword argument.
    """
    fields = {field.name for field in dataclasses.fields(Architecture)} - {"settings", "make"}
    known = {key: declared.pop(key) for key in fields & declared.keys()}

    def register(make: Callable[..., Made]) -> Callable[..., Made]:
        if name in ARCHITECTURES or name in SKIPPED:
            raise ValueError(f"two architectures are called {name!r}")
        if class_name is not None and class_name not in KNOWN_CLASSES:
            SKIPPED[name] = f"transformers {transformers.__version__} has no {class_name}"
            return make
        ARCHITECTURES[name] = Architecture(
            name=name,
            family=family,
            make=make,
            attentions=attentions,
            class_name=class_name,
            settings=declared,
            **known,
        )
        return make

    return register
