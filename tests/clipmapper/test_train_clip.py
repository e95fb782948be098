"""The small CLIP: its tokenizer, its teacher, its losses by hand, and a run that was stopped."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny.training_world import TINY_CLIP
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from clipmapper.scenes import world_texts, write_scenes
from clipmapper.training import clip as training
from clipmapper.training.clip import train_clip
from clipmapper.training.clip_card import measure_clip
from clipmapper.training.contrast import Contrast, PhraseTable
from clipmapper.training.regions import GROUND, read_regions
from clipmapper.training.run import last_checkpoint
from clipmapper.training.tokenizer import END, START, train_tokenizer
from relmap.data.coco_captions import coco_captions
from relmap.errors import InputError


def asked(captions):
    return {one.image_id: ["why? because"] for one in captions}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("clip") / "scenes", train=32, val=8, test=0, seed=1)


@pytest.fixture(scope="module")
def captions(world):
    return coco_captions(world, "train")


def regions_of(world, captions, grid=2):
    numbers = [one.image_id for one in captions]
    return read_regions(world / "annotations" / "instances_train.json", numbers, grid)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(world_texts())


class TestTokenizer:
    def test_any_text_comes_back(self, tokenizer):
        for text in ("a small red star", "straße 7 €?", "日本"):
            numbers = tokenizer(text)["input_ids"]
            assert tokenizer.decode(numbers, skip_special_tokens=True) == text

    def test_words_of_the_world_are_one_token_each(self, tokenizer):
        text = "what colour is the small purple triangle left of the thing"
        assert len(tokenizer.tokenize(text)) == 11

    def test_clip_pools_the_end_token(self, tokenizer):
        # with number 2 as the end, transformers pools the token of the largest number instead
        tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        config = CLIPConfig(
            text_config=tower | ids | {"vocab_size": len(tokenizer), "intermediate_size": 8},
            vision_config=tower | {"image_size": 16, "patch_size": 8},
        )
        model = CLIPModel(config).eval()
        batch = tokenizer(["a red star", "a small red star"], padding=True, return_tensors="pt")
        found = model.text_model(**{k: batch[k] for k in ("input_ids", "attention_mask")})
        ends = (batch["input_ids"] == tokenizer.convert_tokens_to_ids(END)).int().argmax(1)
        assert ends.tolist() == [4, 5]
        expected = found.last_hidden_state[torch.arange(2), ends]
        torch.testing.assert_close(found.pooler_output, expected)

    def test_texts_stand_between_start_and_end(self, tokenizer):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])
        assert (tokens[0], tokens[-1]) == (START, END)


class TestRegions:
    def test_patches_belong_to_what_covers_their_centre(self, world, captions):
        grid = 7
        regions = regions_of(world, captions, grid)
        content = json.loads((world / "annotations" / "instances_train.json").read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        rows = {one.image_id: row for row, one in enumerate(captions)}
        expected = np.full((len(captions), grid, grid), GROUND, dtype=object)
        for thing in content["annotations"]:
            pixels = []
            for value, count in enumerate(thing["segmentation"]["counts"]):
                pixels += [value % 2] * count
            mask = np.array(pixels).reshape(112, 112).T  # written column by column
            for row in range(grid):
                for column in range(grid):
                    if mask[row * 16 + 8, column * 16 + 8]:
                        name = names[thing["category_id"]]
                        expected[rows[thing["image_id"]], row, column] = name
        found = np.array([*regions.names, GROUND], dtype=object)[regions.categories]
        assert (found == expected.reshape(len(captions), -1)).all()
        assert (found != GROUND).mean() > 0.05

    def test_tables_hold_whole_names_and_their_words(self, world, captions):
        tables = regions_of(world, captions).tables
        names = regions_of(world, captions).names
        assert tables[0][0] == (*names, GROUND)
        assert [len(texts) for texts, _ in tables[1:]] == [2, 6, 4]
        for place, (texts, numbers) in enumerate(tables[1:]):
            assert [texts[number] for number in numbers] == [one.split()[place] for one in names]

    def test_polygons_are_refused(self, tmp_path, captions):
        thing = {"id": 1, "image_id": captions[0].image_id, "category_id": 1}
        file = tmp_path / "instances.json"
        content = {
            "annotations": [thing | {"segmentation": [[0, 0, 4, 0, 4, 4]]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match="uncompressed run lengths"):
            read_regions(file, [captions[0].image_id], 2)


def test_losses_by_hand(tokenizer):
    torch.manual_seed(0)
    clip = training._new_clip(TINY_CLIP, tokenizer).double().eval()
    names = tokenizer(["red", "blue", GROUND], padding=True, return_tensors="pt")
    table = PhraseTable(
        tokens={key: names[key] for key in ("input_ids", "attention_mask")},
        of_category=torch.tensor([0, 1]),
        ground=2,
    )
    model = Contrast(clip, [table]).double()
    model.share = 0.25
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    categories = torch.tensor([[0, -1, -1, 1], [1, 1, -1, 0]])
    texts = tokenizer(["a red star", "blue"], padding=True, return_tensors="pt")
    with torch.no_grad():
        loss = model(pixels, categories, texts["input_ids"], texts["attention_mask"])["loss"]

        def unit(vector):
            return vector / vector.norm()

        def text_vector(batch, row):
            kept = batch["attention_mask"][row].bool()
            found = clip.get_text_features(input_ids=batch["input_ids"][row][kept][None])
            return unit(getattr(found, "pooler_output", found)[0])

        hidden = clip.vision_model(pixels).last_hidden_state
        vectors = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
        phrases = [text_vector(names, row) for row in range(3)]
        scale = torch.exp(torch.tensor(2.5, dtype=torch.float64))
        shown, ground = [], []
        for image in range(2):
            for patch in range(4):
                patch_vector = unit(vectors[image, 1 + patch])
                logits = torch.stack([scale * patch_vector @ phrase for phrase in phrases])
                category = int(categories[image, patch])
                right = 2 if category < 0 else category
                (ground if category < 0 else shown).append(-logits.log_softmax(0)[right])
        expected = sum(shown) / len(shown) + 0.3 * sum(ground) / len(ground)
        captions = [text_vector(texts, row) for row in range(2)]
        both = torch.stack(
            [torch.stack([unit(vectors[i, 0]) @ captions[j] for j in range(2)]) for i in range(2)]
        )
        both = both * clip.logit_scale.exp()
        rows = -(both.log_softmax(1)[0, 0] + both.log_softmax(1)[1, 1]) / 2
        columns = -(both.log_softmax(0)[0, 0] + both.log_softmax(0)[1, 1]) / 2
        expected = expected + 0.25 * (rows + columns) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)


def test_of_recoloured_pictures_nothing_is_asked_that_speaks_of_colour(tokenizer):
    torch.manual_seed(1)
    clip = training._new_clip(TINY_CLIP, tokenizer).double().eval()

    def table(texts, numbers, colours):
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        kept = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        return PhraseTable(kept, torch.tensor(numbers), None, colours)

    # categories: red star, blue star, red circle
    colour = table(["red", "blue"], [0, 1, 0], True)
    shape = table(["star", "circle"], [0, 0, 1], False)
    model = Contrast(clip, [colour, shape]).double()
    model.share = 0.0
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    recoloured = torch.tensor([True, False])

    def loss(first, second):
        categories = torch.tensor([[first] * 4, [second] * 4])
        return model(pixels, categories, recoloured=recoloured)["loss"].item()

    assert loss(0, 0) == loss(1, 0)  # another colour of the recoloured picture
    assert loss(0, 0) != loss(0, 1)  # of the other one
    assert loss(0, 0) != loss(2, 0)  # another shape is noticed in both


def weights(folder):
    return CLIPModel.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def whole(world, captions, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "clip"
    regions = regions_of(world, captions)
    return train_clip(
        captions, output, recipe=TINY_CLIP, regions=regions, answered=asked(captions), seed=4
    )


class TestRun:
    def test_the_folder_is_one_that_transformers_reads(self, whole, captions):
        tokenizer = AutoTokenizer.from_pretrained(whole)
        assert "why" in tokenizer.decode(tokenizer("why?")["input_ids"])
        found = measure_clip(whole, captions)
        assert set(found) == {"image_to_text", "text_to_image", "among_siblings"}
        assert json.loads((whole / "training.json").read_text())["seed"] == 4

    def test_a_run_that_was_stopped_ends_with_the_same_weights(
        self, whole, world, captions, tmp_path, monkeypatch
    ):
        steps = TINY_CLIP.samples // TINY_CLIP.batch_size
        often = replace(TINY_CLIP, checkpoint_minutes=0.0)
        regions = regions_of(world, captions)
        seen = []

        def stop_in_the_middle(self, position, original=training._Rows.__getitem__):
            seen.append(position)
            if len(seen) == TINY_CLIP.batch_size * (steps // 2) + 1:
                raise KeyboardInterrupt
            return original(self, position)

        output = tmp_path / "clip"
        with monkeypatch.context() as patched:
            patched.setattr(training._Rows, "__getitem__", stop_in_the_middle)
            with pytest.raises(KeyboardInterrupt):
                train_clip(
                    captions,
                    output,
                    recipe=often,
                    regions=regions,
                    answered=asked(captions),
                    seed=4,
                )
        stopped = last_checkpoint(output)
        assert stopped is not None
        assert not (output / "model.safetensors").exists()
        mark = stopped / "complete.json"
        about = json.loads(mark.read_text())
        assert 0 < about["minutes"] < 10
        mark.write_text(json.dumps(about | {"minutes": 90.0}))
        with (output / "log.jsonl").open("a") as log:
            log.write('{"step": 5, "loss": 1.0}\n{"step"')  # beyond the checkpoint
        with pytest.raises(InputError, match="another seed, captions"):
            train_clip(captions[::-1], output, recipe=often, regions=regions,
                       answered=asked(captions), seed=5)  # fmt: skip
        train_clip(
            captions, output, recipe=often, regions=regions, answered=asked(captions), seed=4
        )
        again, first = weights(output), weights(whole)
        assert all(torch.equal(again[name], first[name]) for name in first)
        minutes = json.loads((output / "training.json").read_text())["minutes"]
        assert 90 < minutes < 100, "those of both parts"
        assert "5" not in (output / "log.jsonl").read_text()

    def test_nothing_but_the_model_stays(self, whole):
        assert not {"checkpoints", "pixels"} & {path.name for path in whole.iterdir()}

    def test_a_finished_run_is_not_run_again(self, whole, world, captions, monkeypatch):
        monkeypatch.setattr(training, "train_steadily", None)
        given = {"regions": regions_of(world, captions), "answered": asked(captions), "seed": 4}
        assert train_clip(captions, whole, recipe=TINY_CLIP, **given) == whole
        with pytest.raises(InputError, match=r"another recipe \(learning_rate\)"):
            train_clip(captions, whole, recipe=replace(TINY_CLIP, learning_rate=1.0), **given)
        with pytest.raises(InputError, match="another captions: choose another"):
            train_clip(captions[::-1], whole, recipe=TINY_CLIP, **given)
        with pytest.raises(InputError, match="another questions, regions"):
            train_clip(captions, whole, recipe=TINY_CLIP, seed=4)

    def test_another_seed_gives_other_weights(self, whole, world, captions, tmp_path):
        regions = regions_of(world, captions)
        other = train_clip(captions, tmp_path / "o", recipe=TINY_CLIP, regions=regions, seed=5)
        assert not torch.equal(
            weights(other)["visual_projection.weight"], weights(whole)["visual_projection.weight"]
        )

    def test_without_regions_it_is_image_text_contrast_alone(self, captions, tmp_path):
        output = train_clip(captions, tmp_path / "clip", recipe=TINY_CLIP)
        assert (output / "model.safetensors").is_file()

    def test_too_few_pictures_are_refused(self, captions, tmp_path):
        with pytest.raises(InputError, match="do not fill a batch"):
            train_clip(captions[:4], tmp_path, recipe=TINY_CLIP)

    def test_texts_beyond_clips_places_are_cut_and_told(self, captions, tmp_path, capsys):
        long = [replace(one, captions=("star " * 99,)) for one in captions]
        output = train_clip(long, tmp_path / "clip", recipe=TINY_CLIP)
        assert "1 of 1 texts are cut to the 77 tokens" in " ".join(capsys.readouterr().err.split())
        assert measure_clip(output, long[:4])["text_to_image"] >= 0

    def test_a_length_below_one_is_refused(self):
        for samples in (0, -5):
            with pytest.raises(InputError, match=f"samples must be above 0, not {samples}"):
                TINY_CLIP.lasting(samples)

    def test_another_length_has_another_warm_up(self):
        recipe = replace(TINY_CLIP, samples=1000, warmup_steps=40).lasting(250)
        assert (recipe.samples, recipe.warmup_steps) == (250, 10)


def test_settings_are_json(captions):
    told = training._settings(captions, asked(captions), None, TINY_CLIP, 3)
    assert json.loads(json.dumps(told)) == told
    assert told["recipe"] == asdict(TINY_CLIP)
