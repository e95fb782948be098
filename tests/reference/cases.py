"""Networks of which everything a reference needs is known by hand, fast and eager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from architectures import build
from architectures.samples import ENCODER, text
from architectures.weights import enlarge
from torch import Tensor, nn

from . import mappers, networks
from .records import Record, SubLayer, take_records

Token = Callable[[dict[str, Any]], int]


@dataclass
class Case:
    """A network as it is explained, its eager twin, and where its tokens are.

    `names` gives the source of every sequence, `sizes` its tokens; `read` is the sequence and the
    token that the scores are made of. Inputs hold a batch.
    """

    fast: nn.Module
    eager: nn.Module
    inputs: dict[str, Any]
    sublayers: list[SubLayer]
    names: dict[str, str]
    sizes: dict[str, int]
    read: tuple[str, Token]
    scores: Callable[[Any], Tensor] = lambda output: output.logits
    column: int = 1
    tolerance: float = 1e-9

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    def target(self, output: Any) -> Tensor:
        return self.scores(output)[:, self.column]

    def example(self, index: int) -> dict[str, Any]:
        return {
            name: value[index : index + 1] if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }

    def records(self, index: int) -> list[Record]:
        """The attention sub-layers of one example, which runs alone."""
        inputs = self.example(index)
        return take_records(self.eager, inputs, self.target, self.sublayers, self.sizes)

    def row(self, index: int) -> int:
        """Global number of the token that is read."""
        name, position = self.read
        before = list(self.sizes).index(name)
        return sum(list(self.sizes.values())[:before]) + position(self.example(index))

    def columns(self, name: str) -> Tensor:
        """Global numbers of the tokens of a sequence."""
        start = sum(list(self.sizes.values())[: list(self.sizes).index(name)])
        return torch.arange(start, start + self.sizes[name])

    def side_by_side(self, scores: dict[str, Tensor], index: int) -> Tensor:
        """Scores of one example as one row over all tokens."""
        assert set(scores) == set(self.names.values())
        return torch.cat([scores[source][index] for source in self.names.values()])


def _first(inputs: dict[str, Any]) -> int:
    return 0


def _from_the_zoo(name: str, implementation: str, sublayers: list[SubLayer], **known: Any) -> Case:
    fast, eager = build(name, implementation), build(name, "eager")
    inputs = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in fast.inputs.items()
    }
    return Case(fast.network.double(), eager.network.double(), inputs, sublayers, **known)


def by_hand(kind: type[nn.Module], norm_first: bool, fused: bool) -> Case:
    """One of the mappers."""
    torch.manual_seed(3)
    eager = kind(norm_first=norm_first)
    enlarge(eager)
    fast = kind(norm_first=norm_first, fused=fused)
    fast.load_state_dict(eager.state_dict())
    reads = kind is mappers.ReadingMapper
    return Case(
        fast.double().eval(),
        eager.double().eval(),
        mappers.sample_with_question() if reads else mappers.sample(),
        eager.sublayers(),
        names={"image": "features", "text": "words", **({"question": "question"} if reads else {})},
        sizes={**mappers.SIZES, **({"question": mappers.QUESTION} if reads else {})},
        read=("question" if reads else "image", _first),
        scores=lambda output: output,
    )


def vit(implementation: str) -> Case:
    return _from_the_zoo(
        "ViT",
        implementation,
        networks.vit(),
        names={"image": "pixel_values"},
        sizes={"image": 10},
        read=("image", _first),
        # Its eager attention normalises in float32, which the reference does not.
        tolerance=1e-6 if implementation == "eager" else 1e-9,
    )


def bert(implementation: str) -> Case:
    return _from_the_zoo(
        "BERT",
        implementation,
        networks.bert(),
        names={"text": "input_ids"},
        sizes={"text": 7},
        read=("text", _first),
    )


def visual_bert(implementation: str) -> Case:
    return _from_the_zoo(
        "VisualBert",
        implementation,
        networks.bert(2, "visual_bert.encoder.layer", networks.BOTH),
        names={"text": "input_ids", "image": "visual_embeds"},
        sizes={"text": 7, "image": 5},
        read=("text", lambda inputs: int(inputs["attention_mask"].sum()) - 2),
    )


def lxmert(implementation: str) -> Case:
    return _from_the_zoo(
        "LXMERT",
        implementation,
        networks.lxmert(),
        names={"text": "input_ids", "image": "visual_feats"},
        sizes={"text": 7, "image": 5},
        read=("text", _first),
        scores=lambda output: output.question_answering_score,
    )


def blip(implementation: str) -> Case:
    return _from_the_zoo(
        "BLIP-retrieval",
        implementation,
        networks.blip_text(),
        names={"text": "input_ids", "image": "pixel_values"},
        sizes={"text": 7, "image": 10},
        read=("text", _first),
        scores=lambda output: output.itm_score,
    )


def t5(implementation: str) -> Case:
    return _encoder_decoder("T5", networks.t5(), implementation)


def bart(implementation: str) -> Case:
    return _encoder_decoder("BART", networks.bart(), implementation)


def _encoder_decoder(name: str, sublayers: list[SubLayer], implementation: str) -> Case:
    return _from_the_zoo(
        name,
        implementation,
        sublayers,
        names={"encoder": "input_ids", "decoder": "decoder_input_ids"},
        sizes={"encoder": 7, "decoder": 4},
        read=("decoder", lambda inputs: 3),
        scores=lambda output: output.logits[:, -1],
    )


def frozen_image(implementation: str) -> Case:
    """BLIP's text encoder alone; the tokens of the image are an input and attend to nothing."""
    config = transformers.BlipTextConfig(**ENCODER, encoder_hidden_size=16, sep_token_id=3)
    torch.manual_seed(5)
    network = transformers.BlipTextModel(config, add_pooling_layer=False)
    enlarge(network)
    network = network.double().eval()
    inputs = {**text(), "encoder_hidden_states": torch.randn(2, 6, 16, dtype=torch.float64)}
    return Case(
        network,
        network,
        inputs,
        networks.blip_text(0, 2, prefix="encoder.layer"),
        names={"text": "input_ids", "image": "encoder_hidden_states"},
        sizes={"text": 7, "image": 6},
        read=("text", _first),
        scores=lambda output: output.last_hidden_state[:, 0],
    )
