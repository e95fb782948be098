"""Roles of arguments: exact names and whole endings alone, and what nobody knows is data."""

import pytest
import torch
from torch import Tensor, nn

import relmap
from relmap.trace.argument_roles import Role, padding_masks, role, steers

LOOKALIKES = (
    "narration", "overhead_image", "operations", "saturation", "generation", "masked_image",
    "cached_features", "duration_features", "head_pose", "num_features", "body_mass_index",
)  # fmt: skip


class Crossing(nn.Module):
    """x attends to y."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.entry, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def cross(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.entry(x), self.entry(y)
        return self.head((x + self.attention(x, y, y, need_weights=False)[0])[:, 0])


class Joined(Crossing):
    """x and y in one sequence."""

    def cross(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.cat([self.entry(x), self.entry(y)], 1)
        return self.head((z + self.attention(z, z, z, need_weights=False)[0])[:, 0])


def named(kind: type[Crossing], name: str) -> nn.Module:
    """The network with its second argument called `name`."""
    made: dict = {}
    exec(f"def forward(self, x, {name}): return self.cross(x, {name})", made)
    return type("Named", (kind,), {"forward": made["forward"]})().eval()


@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.parametrize("kind", [Crossing, Joined])
def test_scores_do_not_depend_on_what_an_argument_is_called(name, kind):
    x, y = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    found = relmap.explain(named(kind, name), x=x, target=0, method="genatt", **{name: y})
    plain = relmap.explain(named(kind, "y"), x=x, target=0, method="genatt", y=y)
    assert set(found.scores) == {"x", name}
    assert found.scores["x"].shape == (2, 3)
    torch.testing.assert_close(found.scores[name], plain.scores["y"])
    torch.testing.assert_close(found.scores["x"], plain.scores["x"])
    assert found.meta["unused"] == []


def test_known_names_steer():
    whole = torch.ones(1, 4, dtype=torch.long)
    names = ("attention_mask", "position_ids", "mm_token_type_ids", "image_grid_thw", "labels",
             "head_mask", "bool_masked_pos", "spatial_shapes", "cache_position")  # fmt: skip
    assert all(steers(name, whole) for name in names)
    assert role("noise", torch.rand(1, 4)) is Role.POSITION


def test_an_argument_that_nobody_reads_is_named():
    class Deaf(Crossing):
        def forward(self, x, extra, attention_mask):
            return self.cross(x, x)

    given = {"x": torch.randn(1, 3, 8), "extra": torch.randn(1, 4, 8)}
    mask = torch.ones(1, 3)
    found = relmap.explain(Deaf().eval(), target=0, method="genatt", attention_mask=mask, **given)
    assert found.meta["unused"] == ["extra"]


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("kind", [torch.float, torch.bool])
def test_attention_masks_of_torch_are_no_padding(batch, kind):
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    network = nn.TransformerDecoder(layer, 1).eval()
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    mask = hidden if kind is torch.bool else nn.Transformer.generate_square_subsequent_mask(5)
    given = {"tgt": torch.randn(batch, 5, 8), "memory": torch.randn(batch, 4, 8)}
    found = relmap.explain(
        network, tgt_mask=mask, method="rollout", target=lambda out: out[:, -1, 3], **given
    )
    assert not found.layout["tgt"].padding.any()


def test_a_mask_over_samples_marks_frames():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
    )  # fmt: skip
    network = transformers.Wav2Vec2ForSequenceClassification(config).eval()
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 200:] = 0
    sound = torch.randn(2, 400) * mask
    found = relmap.explain(
        network, input_values=sound, attention_mask=mask, target=0, method="genatt"
    )
    # The first windows are 10 wide, 5 apart: (400 - 10) // 5 + 1; that of frame 39 begins at 195.
    padding = found.layout["input_values"].padding
    assert padding.shape[1] == 79
    assert (~padding).sum(1).tolist() == [79, 40]


def test_masks_of_a_source_are_found_by_its_name():
    assert padding_masks("decoder_inputs_embeds")[0] == "decoder_attention_mask"
    assert padding_masks("visual_feats")[0] == "visual_attention_mask"
    assert "tgt_mask" not in padding_masks("tgt")
