"""The authors' outputs on small seeded models, and the same quantities from relmap's public API.

Every function here returns a list of `Comparison`s for one family; `tests/test_goldens.py` checks
them and `benchmarks/goldens.py` prints them. The files lie outside the project, so all of it is
skipped where they are absent. Their weight names are those of transformers 5.23.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import relmap
from relmap import backwards
from relmap.targets import TARGETS

RELEVANCE = (
    "transformer_attribution", "lrp", "with_lrp", "transformer_att",
)  # fmt: skip
"""Parts of the names of what the authors compute by relevance propagation."""


@dataclass(frozen=True)
class Comparison:
    """One quantity of the authors, and relmap's."""

    name: str
    error: float
    tolerance: float


@dataclass(frozen=True)
class Case:
    """One golden case: arrays, their description, and the precision relmap runs in."""

    arrays: dict[str, Tensor]
    about: dict[str, Any]
    dtype: torch.dtype
    implementation: str

    def input(self, name: str) -> Tensor:
        value = self.arrays[f"input.{name}"]
        return value.to(self.dtype) if value.is_floating_point() else value

    def compare(self, name: str, found: Tensor) -> Comparison:
        wanted = self.arrays[f"rel.{name}"].double().flatten()
        found = found.detach().double().flatten()
        scale = wanted.norm()
        error = float((found - wanted).norm() / (scale if scale > 0 else 1))
        return Comparison(f"{name} [{self.implementation}]", error, self._tolerance(name))

    def _tolerance(self, name: str) -> float:
        loose = 1e-4 if "gradcam" in name else 5e-5
        if by_relevance(name):
            loose = 2e-2
        own = self.about["f32_vs_f64_rel"].get(f"rel.{name}")
        return max(loose, 5 * (own or 0.0))


def by_relevance(name: str) -> bool:
    """Whether a quantity of the authors follows relevance, which float32 holds to per cents."""
    return any(part in name for part in RELEVANCE) and "no_lrp" not in name


def find_cases(folder: Path, family: str) -> list[Path]:
    return sorted((folder / family).glob("case*.json"))


def read_case(path: Path, dtype: torch.dtype, implementation: str) -> Case:
    arrays = load_file(path.with_suffix(".safetensors"))
    return Case(arrays, json.loads(path.read_text()), dtype, implementation)


def build(case: Case, name: str) -> nn.Module:
    settings = {
        key: value for key, value in case.about["hf_config"].items()
        if key not in ("model_type", "transformers_version")
    }  # fmt: skip
    kind = getattr(transformers, name)
    config = kind.config_class(**settings)
    config._attn_implementation = case.implementation
    network = kind(config).eval()
    weights = {key[3:]: value for key, value in case.arrays.items() if key.startswith("hf.")}
    if name == "VisualBertModel":  # the weights are those of a model with a head
        weights = {key.removeprefix("visual_bert."): value for key, value in weights.items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert not [key for key in missing if "position_ids" not in key], missing
    return network.to(case.dtype)


def scaled(scores: Tensor) -> Tensor:
    """Min-max, as some of the authors' outputs are."""
    return (scores - scores.min()) / (scores.max() - scores.min())


def fitted(scores: Tensor, wanted: Tensor) -> Tensor:
    """Scaled and shifted to fit: the authors min-max by a whole matrix, of which this is a row."""
    scores, wanted = scores.double(), wanted.double()
    kept = wanted != 0
    columns = torch.stack([scores[kept], torch.ones_like(scores[kept])], dim=1)
    line = torch.linalg.lstsq(columns, wanted[kept, None]).solution.flatten()
    return scores * line[0] + line[1]


def zeroed(scores: Tensor, token: int = 0) -> Tensor:
    """The read-out token's own entry set to zero, as the authors return it."""
    scores = scores.clone()
    scores[..., token] = 0
    return scores


VIT_RELEVANCE: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer_attribution.start0": ("transformer-attribution", {}),
    "transformer_attribution.start1": ("transformer-attribution", {"start_layer": 1}),
    "lrp_rollout_ours_rules.start0": ("rollout", {"backward": "deep-taylor", "normalize": False}),
    "lrp_rollout_ours_rules.start1": (
        "rollout", {"backward": "deep-taylor", "normalize": False, "start_layer": 1},
    ),
    "lrp_last_layer": ("partial-lrp", {}),
    "lrp_last_layer_ablation": ("partial-lrp", {"gradient": True}),
    "lrp_second_layer": ("partial-lrp", {"layer": 1}),
}  # fmt: skip


def vit(case: Case) -> Iterator[Comparison]:
    network = build(case, "ViTForImageClassification")
    pixels = case.input("pixel_values")

    def scores(method: str, target: int, **options: Any) -> Tensor:
        result = relmap.explain(
            network, pixel_values=pixels, target=target, method=method, **options
        )
        return result.scores["pixel_values"][0, 1:]

    for name, target in case.about["targets"].items():
        yield case.compare(f"{name}.genatt", scores("genatt", target))
        yield case.compare(f"{name}.attn_last_layer", scores("raw-attention", target))
        gradcam = scaled(scores("attention-gradcam", target, pool="row"))
        yield case.compare(f"{name}.gradcam", gradcam)
        for theirs, (method, options) in VIT_RELEVANCE.items():
            if f"rel.{name}.{theirs}" in case.arrays:
                yield case.compare(f"{name}.{theirs}", scores(method, target, **options))
        for rules, theirs in (("lrp", "full_lrp"), ("deep-taylor", "full_lrp_ours_rules")):
            if f"rel.{name}.{theirs}" in case.arrays:
                full = relmap.explain(
                    network, pixel_values=pixels, target=target, method="full-lrp", backward=rules
                )
                assert full.image.pixels is not None
                yield case.compare(f"{name}.{theirs}", full.image.pixels)
    for start in (0, 1):
        rollout = scores("rollout", 0, start_layer=start)
        yield case.compare(f"any.rollout.start{start}", rollout)


def bert(case: Case) -> Iterator[Comparison]:
    network = build(case, "BertForSequenceClassification")
    inputs = {name: case.input(name) for name in ("input_ids", "attention_mask")}

    def scores(method: str, target: int, **options: Any) -> Tensor:
        return relmap.explain(
            network, target=target, method=method, **inputs, **options
        ).scores["input_ids"][0]  # fmt: skip

    for name, target in case.about["targets"].items():
        yield case.compare(f"{name}.genatt_clsrow", scores("genatt", target))
        matrix = case.arrays[f"rel.{name}.gradcam"].flatten()
        found = scores("attention-gradcam", target)
        # The authors scale by the whole matrix, of which relmap has one row: fit the scale.
        found = zeroed(found)
        scale = (found.double() @ matrix.double()) / (found.double() @ found.double())
        yield case.compare(f"{name}.gradcam", found * scale)
        for start in range(12):
            quantity = f"{name}.transformer_attribution.start{start}"
            if f"rel.{quantity}" in case.arrays:
                found = scores(
                    "transformer-attribution", target, start_layer=start, normalize=True
                )  # fmt: skip
                found[0] = found.min()
                yield case.compare(quantity, found)
        for rules, ending in (("lrp", ""), ("deep-taylor", "_ours_rules")):
            for method in ("partial-lrp", "full-lrp"):
                quantity = f"{name}.{method.replace('-', '_')}{ending}"
                if f"rel.{quantity}" in case.arrays:
                    yield case.compare(quantity, zeroed(scores(method, target, backward=rules)))
    yield case.compare("any.attn_last_layer", zeroed(scores("raw-attention", 0)))
    for start in (0, 1):
        rollout = zeroed(scores("rollout", 0, start_layer=start))
        if f"rel.any.rollout.start{start}" in case.arrays:
            yield case.compare(f"any.rollout.start{start}", rollout)


def clip(case: Case) -> Iterator[Comparison]:
    network = build(case, "CLIPModel")
    ids = case.input("input_ids")
    pixels = case.input("pixel_values").repeat(len(ids), 1, 1, 1)
    layers = case.about["num_layers"]
    depth = max(layers.values()) if isinstance(layers, dict) else int(layers)
    starts: dict[str, int] = {"last": -1} | {f"start{one}": one for one in range(depth)}
    for name, start in starts.items():
        if f"rel.image.genatt.{name}" not in case.arrays:
            continue
        if name != "last" and start > 0 and _deeper_than_one_tower(case, start):
            continue
        result = relmap.explain(
            network, pixel_values=pixels, input_ids=ids, start_layer=start, method="genatt"
        )
        yield case.compare(f"image.genatt.{name}", result.scores["pixel_values"][:, 1:])
        for example, end in enumerate(case.about["eot_positions"]):
            row = result.scores["input_ids"][example, 1:end]
            yield case.compare(f"text.score.{name}.{example}", row / row.sum())
            whole = case.arrays[f"rel.text.genatt_R.{name}"][example, end]
            found = result.scores["input_ids"][example].double()
            error = float((found - whole.double()).norm() / whole.double().norm())
            yield Comparison(f"text.genatt_R.{name}.{example}", error, 5e-5)


def _deeper_than_one_tower(case: Case, start: int) -> bool:
    # The notebook clips the start to the shorter tower; relmap counts within each stream.
    config = case.about["hf_config"]
    depths = [config[f"{kind}_config"]["num_hidden_layers"] for kind in ("text", "vision")]
    return start >= min(depths)


LXMERT = {
    "ours_no_lrp": ("genatt", {}),
    "ours_no_lrp_no_norm": ("genatt", {"normalize": False}),
    "ablation_no_self_in_10": ("genatt", {"self_in_rule_10": False}),
    "ablation_no_aggregation": ("genatt", {"aggregate": False}),
    "attn_gradcam": ("attention-gradcam", {}),
    "raw_attn": ("raw-attention", {}),
    "rollout": ("rollout", {}),
    "ours_with_lrp": ("genatt", {"backward": "deep-taylor"}),
    "ours_with_lrp_no_normalization": (
        "genatt", {"backward": "deep-taylor", "normalize": False},
    ),
    "transformer_att": ("transformer-attribution", {}),
    "partial_lrp": ("partial-lrp", {"backward": "deep-taylor", "clamp": False}),
}  # fmt: skip


def lxmert(case: Case) -> Iterator[Comparison]:
    network = build(case, "LxmertForQuestionAnswering")
    names = ("input_ids", "attention_mask", "token_type_ids", "visual_feats", "visual_pos")
    inputs = {name: case.input(name) for name in names if f"input.{name}" in case.arrays}
    for name, target in case.about["targets"].items():
        for theirs, (method, options) in LXMERT.items():
            prefix = name if f"rel.{name}.{theirs}.R_t_t" in case.arrays else "any"
            if f"rel.{prefix}.{theirs}.R_t_t" not in case.arrays:
                continue
            result = relmap.explain(network, target=target, method=method, **inputs, **options)
            text = zeroed(result.scores["input_ids"][0])
            yield _row(case, f"{prefix}.{theirs}.R_t_t", text)
            yield _row(case, f"{prefix}.{theirs}.R_t_i", result.scores["visual_feats"][0])


def _row(case: Case, name: str, found: Tensor) -> Comparison:
    """The read-out row (the first) of one of the authors' matrices."""
    wanted = case.arrays[f"rel.{name}"][0].double()
    if "partial_lrp" in name:
        found = fitted(found, wanted)
    scale = float(wanted.norm()) or 1.0
    error = float((found.double() - wanted).norm()) / scale
    tolerance = case.compare(name, case.arrays[f"rel.{name}"]).tolerance
    return Comparison(f"{name} [{case.implementation}]", error, tolerance)


class VisualBertWithHead(nn.Module):
    """VisualBERT read at the second-last text token, with the authors' answer head."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.encoder = build(case, "VisualBertModel")
        self.position = case.about["cls_index"]
        linear = {key: value.to(case.dtype) for key, value in case.arrays.items()
                  if key.startswith("head.")}  # fmt: skip
        self.head = _head(linear).to(case.dtype)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, visual_embeds: Tensor,
        visual_attention_mask: Tensor, visual_token_type_ids: Tensor, token_type_ids: Tensor,
    ) -> Tensor:  # fmt: skip
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, visual_embeds=visual_embeds,
            visual_attention_mask=visual_attention_mask, token_type_ids=token_type_ids,
            visual_token_type_ids=visual_token_type_ids,
        ).last_hidden_state  # fmt: skip
        return self.head(hidden[:, self.position])


def _head(weights: dict[str, Tensor]) -> nn.Module:
    names = sorted(weights)
    if any("dense" in name for name in names):
        width = weights["head.classifier.0.dense.weight"].shape[0]
        answers = weights["head.classifier.1.weight"].shape[0]
        head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12),
            nn.Linear(width, answers),
        )  # fmt: skip
        renamed = {"0.dense": "0", "0.LayerNorm": "2", "1": "3"}
    else:
        weight = next(value for name, value in weights.items() if name.endswith("weight"))
        head = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0]))
        renamed = {names[0].split(".", 1)[1].rsplit(".", 1)[0]: "0"}
    state = {}
    for name, value in weights.items():
        inner, kind = name.split(".", 1)[1].rsplit(".", 1)
        inner = inner.removeprefix("classifier.")
        state[f"{renamed.get(inner, renamed.get(name.split('.', 1)[1], '0'))}.{kind}"] = value
    head.load_state_dict(state)
    return head


VISUALBERT = {
    "ours_no_lrp": ("genatt", {}),
    "attn_gradcam": ("attention-gradcam", {}),
    "raw_attn": ("raw-attention", {}),
    "rollout": ("rollout", {"normalize": False}),
    "transformer_attribution.start0": ("transformer-attribution", {}),
    "transformer_attribution.start3": ("transformer-attribution", {"start_layer": 3}),
    "partial_lrp": ("partial-lrp", {"backward": "deep-taylor", "clamp": False}),
}


def visualbert(case: Case) -> Iterator[Comparison]:
    if any(key.startswith("head.") for key in case.arrays):
        network: nn.Module = VisualBertWithHead(case).eval()
        index = case.about["cls_index"]
    else:
        network = build(case, "VisualBertForQuestionAnswering")
        index = case.about["cls_index"]
    visual = case.input("visual_embeddings")
    inputs = {
        "input_ids": case.input("input_ids"),
        "attention_mask": case.input("input_mask"),
        "token_type_ids": case.input("token_type_ids"),
        "visual_embeds": visual,
        "visual_attention_mask": case.input("image_mask"),
        "visual_token_type_ids": torch.zeros(visual.shape[:2], dtype=torch.long),
    }
    for name, target in case.about["targets"].items():
        for theirs, (method, options) in VISUALBERT.items():
            prefix = name if f"rel.{name}.{theirs}" in case.arrays else "any"
            if f"rel.{prefix}.{theirs}" not in case.arrays:
                continue
            result = relmap.explain(network, target=target, method=method, **inputs, **options)
            joined = [result.scores["input_ids"], result.scores["visual_embeds"]]
            row = zeroed(torch.cat(joined, dim=1), index)[0]
            if theirs == "partial_lrp":
                row = zeroed(fitted(row, case.arrays[f"rel.{prefix}.{theirs}"].flatten()), index)
            if theirs == "attn_gradcam":
                # Scaled by the whole matrix there: fit the scale of the row.
                wanted = case.arrays[f"rel.{prefix}.{theirs}"].flatten().double()
                row = row * (row.double() @ wanted) / (row.double() @ row.double())
            yield case.compare(f"{prefix}.{theirs}", row)


DETR = LXMERT | {
    theirs: (method, options | {"backward": backwards.deep_taylor(rescale_linear=True)})
    for theirs, (method, options) in LXMERT.items() if by_relevance(theirs)
}  # fmt: skip


def detr(case: Case) -> Iterator[Comparison]:
    network = build(case, "DetrForObjectDetection")
    pixels = case.input("pixel_values")
    lost = case.about["decoder_layers_with_zero_row_in_R_hat_qq"]
    detection = TARGETS.get("detection-query").function
    for name, target in case.about["targets"].items():
        for theirs, (method, options) in DETR.items():
            if theirs in ("ours_no_lrp", "ours_with_lrp") and lost.get(name):
                continue  # the authors lose a whole layer there (documented difference)
            if f"rel.{name}.{theirs}" not in case.arrays:
                continue
            result = relmap.explain(
                network, pixel_values=pixels, method=method, **options,
                target=detection(target["query"], target["class"]),
            )  # fmt: skip
            found = result.scores["pixel_values"][0]
            if theirs == "partial_lrp":
                found = fitted(found, case.arrays[f"rel.{name}.{theirs}"].flatten())
            yield case.compare(f"{name}.{theirs}", found)


FAMILIES: dict[str, tuple[Callable[[Case], Iterator[Comparison]], tuple[str, ...]]] = {
    "vit": (vit, ("eager", "sdpa")),
    "bert": (bert, ("eager", "sdpa")),
    "clip": (clip, ("eager", "sdpa")),
    "lxmert": (lxmert, ("eager",)),
    "visualbert": (visualbert, ("eager",)),
    "detr": (detr, ("eager",)),
}
