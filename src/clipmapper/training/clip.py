"""A small CLIP, trained from nothing on pictures with captions and, where known, their regions.

First patches learn words (region-word contrast), then pictures learn captions as well (image-text
contrast, its share growing). A data set without instances is trained by image-text contrast alone.
What comes out is a folder that transformers loads: the CLIP, its tokenizer, its image processor.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

from clipmapper.training.contrast import Contrast, PhraseTable
from clipmapper.training.features import tell_of_cuts
from clipmapper.training.pixels import Pixels
from clipmapper.training.regions import GROUND, Regions
from clipmapper.training.run import check_samples, open_output, require_extra
from clipmapper.training.steady import Pace, train_steadily
from clipmapper.training.tokenizer import tokens_of, train_tokenizer
from relmap.errors import InputError
from relmap.files import fingerprint, write_whole

if TYPE_CHECKING:
    from relmap.data import CaptionedImage

__all__ = ["ClipRecipe", "remove_work", "train_clip"]


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """Everything that the training of a small CLIP is.

    Attributes:
        samples: Pictures seen.
        alone: Share of the training that is region-word contrast alone.
        pair_share: Weight of the image-text contrast at the end; it grows over `ramp` of the rest.
        questions: Share of pairs whose text is a question with its answer, where there are any: the
            text encoder must know the words that will be asked with.
        recoloured: Share of pictures whose channels change places. Of these only what does not
            speak of colour is asked, so that a shape is known in colours that it was never seen in.
        colour_word: The place of the colour in a category's name; None, and nothing is recoloured.
        siblings: Neighbouring pictures that stay together in a batch, as hard negatives.
        equal_texts: Count a text as right for all pictures of the batch that have an equal one;
            for data with few different captions.
    """

    samples: int = 220_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    alone: float = 0.4
    pair_share: float = 0.5
    ramp: float = 0.3
    questions: float = 0.3
    recoloured: float = 0.3
    colour_word: int | None = 1
    siblings: int = 4
    equal_texts: bool = False
    side: int = 56
    patch: int = 8
    width: int = 128
    layers: int = 4
    text_width: int = 96
    text_layers: int = 2
    projection: int = 128
    heads: int = 4
    vocabulary: int = 512
    checkpoint_minutes: float = 5.0
    about: str = field(default="a small CLIP by region-word, then image-text contrast")

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def lasting(self, samples: int) -> ClipRecipe:
        """The same training in another length, its warm-up in proportion.

        Raises:
            InputError: The length is below 1.

        Example:
            >>> ClipRecipe(samples=1000, warmup_steps=100).lasting(50).warmup_steps
            5
        """
        return replace(
            self, samples=samples, warmup_steps=round(self.warmup_steps * samples / self.samples)
        )


def train_clip(
    captions: Sequence[CaptionedImage],
    output: str | Path,
    *,
    recipe: ClipRecipe,
    regions: Regions | None = None,
    answered: Mapping[int | str, Sequence[str]] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Trains a small CLIP and saves it.

    A run that was stopped goes on from its last checkpoint; of one that was finished nothing is
    done again.

    Args:
        answered: Questions with their answers ("is there a star? yes") by the number of their
            picture: they are texts of that picture beside its captions.
        settings: What run.json says of the run and compares when it goes on; by default all that is
            given here.

    Raises:
        InputError: There are fewer pictures than a batch has, or the folder holds another run.
        MissingExtraError: accelerate is not installed.
    """
    from transformers import set_seed

    begun = time.monotonic()
    require_extra()
    output, answered = Path(output), answered or {}
    if len(captions) < recipe.batch_size:
        raise InputError(f"{len(captions)} pictures do not fill a batch of {recipe.batch_size}")
    if settings is None:
        settings = _settings(captions, answered, regions, recipe, seed)
    open_output(output, settings)
    if (output / "training.json").is_file():
        remove_work(output)
        return output
    set_seed(seed)
    spoken = {text for texts in answered.values() for text in texts}
    spoken |= {text for one in captions for text in one.captions}
    tokenizer = train_tokenizer([GROUND, *sorted(spoken)], recipe.vocabulary)
    tell_of_cuts(sorted(spoken), tokenizer, tokenizer.model_max_length)
    processor = _image_processor(recipe.side)
    pixels = Pixels.read([one.image for one in captions], processor, output / "pixels")
    clip = _new_clip(recipe, tokenizer)
    model = Contrast(
        clip, _phrase_tables(regions, tokenizer, recipe.colour_word), equal_texts=recipe.equal_texts
    )
    rows = _Rows(captions, answered, regions, recipe, seed)
    pace = _pace(model, rows, recipe, begun)
    minutes = train_steadily(model, rows, _Batch(pixels, tokenizer).collate, output, pace)
    clip.save_pretrained(output)
    _save_processor(processor, tokenizer, output)
    about = {"recipe": asdict(recipe), "seed": seed, "minutes": minutes}
    write_whole(output / "training.json", (json.dumps(about, indent=1) + "\n").encode())
    remove_work(output)
    return output


def remove_work(output: Path) -> None:
    """Removes what only a run that is not finished needs."""
    for name in ("checkpoints", "pixels"):
        shutil.rmtree(output / name, ignore_errors=True)


def _settings(
    captions: Sequence[CaptionedImage],
    answered: Mapping[int | str, Sequence[str]],
    regions: Regions | None,
    recipe: ClipRecipe,
    seed: int,
) -> dict[str, Any]:
    """All that decides about the weights, as JSON."""
    said = (f"{one.image.name} {one.image_id} {one.captions}" for one in captions)
    shown = () if regions is None else (*regions.names, regions.categories.tobytes())
    return {
        "task": "clip",
        "seed": seed,
        "recipe": asdict(recipe),
        "captions": f"{len(captions)}, {fingerprint(*said)}",
        "questions": f"{len(answered)}, {fingerprint(*map(repr, answered.items()))}",
        "regions": None if regions is None else fingerprint(*shown),
    }


_ORDERS = tuple(list(order) for order in permutations(range(3)) if order != (0, 1, 2))


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Position in training -> picture, caption, regions: a pure function of seed and position."""

    def __init__(
        self,
        captions: Sequence[CaptionedImage],
        answered: Mapping[int | str, Sequence[str]],
        regions: Regions | None,
        recipe: ClipRecipe,
        seed: int,
    ) -> None:
        self.captions = captions
        self.answered = [answered.get(one.image_id, ()) for one in captions]
        self.questions = recipe.questions
        self.recoloured = 0.0 if recipe.colour_word is None else recipe.recoloured
        self.regions = regions
        self.siblings = recipe.siblings
        self.seed = seed
        self.steps = -(-recipe.samples // recipe.batch_size)
        self.length = self.steps * recipe.batch_size
        self.groups = len(captions) // recipe.siblings
        self._order: tuple[int, Int[np.ndarray, " groups"]] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, Any]:
        turn, place = divmod(position, self.groups * self.siblings)
        if self._order[0] != turn:
            order = np.random.default_rng([self.seed, turn]).permutation(self.groups)
            self._order = (turn, order)
        row = int(self._order[1][place // self.siblings]) * self.siblings + place % self.siblings
        random = np.random.default_rng([self.seed, 1, position])
        texts: Sequence[str] = self.captions[row].captions
        if random.random() < self.questions and self.answered[row]:
            texts = self.answered[row]
        found: dict[str, Any] = {"row": row, "text": texts[int(random.integers(len(texts)))]}
        if self.regions is not None:
            found["categories"] = self.regions.categories[row]
            if random.random() < self.recoloured:
                found["channels"] = _ORDERS[int(random.integers(len(_ORDERS)))]
        return found


class _Batch:
    """Rows to tensors."""

    def __init__(self, pixels: Pixels, tokenizer: Any) -> None:
        self.pixels = pixels
        self.tokenizer = tokenizer

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of these rows."""
        pixels = self.pixels.take(np.array([row["row"] for row in rows]))
        batch = {"pixel_values": pixels} | tokens_of(self.tokenizer, [row["text"] for row in rows])
        if "categories" in rows[0]:
            categories = np.stack([row["categories"] for row in rows])
            batch["categories"] = torch.from_numpy(categories.astype(np.int64))
            for place, row in enumerate(rows):
                if "channels" in row:
                    batch["pixel_values"][place] = batch["pixel_values"][place, row["channels"]]
            batch["recoloured"] = torch.tensor(["channels" in row for row in rows])
        return batch


def _pace(model: Contrast, rows: _Rows, recipe: ClipRecipe, begun: float) -> Pace:
    regions = rows.regions is not None
    start = recipe.alone if regions else 0.0

    def share(step: int) -> float:
        gone = step / rows.steps
        if gone < start:
            return 0.0
        if not regions:
            return 1.0
        return recipe.pair_share * min(1.0, (gone - start) / max(recipe.ramp * (1 - start), 1e-9))

    def rate(step: int) -> float:
        if step < recipe.warmup_steps:
            return (step + 1) / recipe.warmup_steps
        left = (step - recipe.warmup_steps) / max(rows.steps - recipe.warmup_steps, 1)
        return 0.5 * (1 + float(np.cos(np.pi * left)))

    def before(step: int) -> None:
        model.share = share(step)

    return Pace(
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        rate=rate,
        before=before,
        minutes=recipe.checkpoint_minutes,
        seed=rows.seed,
        begun=begun,
    )


def _new_clip(recipe: ClipRecipe, tokenizer: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={
            "hidden_size": recipe.width,
            "intermediate_size": 4 * recipe.width,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "image_size": recipe.side,
            "patch_size": recipe.patch,
            "hidden_act": "gelu",  # one kernel, where CLIP's own approximation takes three
        },
        text_config={
            "hidden_size": recipe.text_width,
            "intermediate_size": 4 * recipe.text_width,
            "num_hidden_layers": recipe.text_layers,
            "num_attention_heads": recipe.heads,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "hidden_act": "gelu",
        },
        projection_dim=recipe.projection,
    )
    clip = CLIPModel(config)
    # Words that the training texts seldom use stay apart from each other by their first vectors
    # alone; at the usual 0.02 the layers drown them, and a mapper cannot tell "where" from "what".
    words = clip.text_model.embeddings
    torch.nn.init.normal_(words.token_embedding.weight, std=0.3)
    torch.nn.init.normal_(words.position_embedding.weight, std=0.1)
    return clip


def _image_processor(side: int) -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"height": side, "width": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )


def _save_processor(image_processor: Any, tokenizer: Any, output: Path) -> None:
    from transformers import CLIPProcessor

    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(output)


def _phrase_tables(
    regions: Regions | None, tokenizer: Any, colour_word: int | None
) -> list[PhraseTable]:
    tables = []
    for number, (texts, of_category) in enumerate(() if regions is None else regions.tables):
        tables.append(
            PhraseTable(
                tokens=tokens_of(tokenizer, texts),
                of_category=torch.from_numpy(of_category),
                ground=texts.index(GROUND) if GROUND in texts else None,
                colours=colour_word is not None and number in (0, 1 + colour_word),
            )
        )
    return tables
