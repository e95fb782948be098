"""A tiny world to train on: coloured squares in the official formats, and a random CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from clipmapper.training.clip import ClipRecipe
from clipmapper.training.tokenizer import train_tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230)}
SIDES = {"left": 2, "right": 14}
SIZE, PATCH = 24, 8
TINY_CLIP = ClipRecipe(
    samples=48,
    batch_size=8,
    warmup_steps=2,
    alone=0.5,
    side=16,
    patch=8,
    width=16,
    layers=1,
    text_width=16,
    text_layers=1,
    projection=8,
    heads=2,
    vocabulary=300,
)


def write_world(folder: Path, sizes: dict[str, int]) -> Path:
    """Pictures of one square each; three questions and two captions about each."""
    (folder / "annotations").mkdir(parents=True)
    random = np.random.default_rng(0)
    number = 0
    for split, size in sizes.items():
        (folder / split).mkdir()
        questions, annotations, captions, images = [], [], [], []
        for _ in range(size):
            number += 1
            colour, side = random.choice(list(COLOURS)), random.choice(list(SIDES))
            _draw(folder / split / f"{number:012d}.png", colour, side)
            images.append({"id": number, "file_name": f"{number:012d}.png"})
            for text in (f"a {colour} square", f"a square on the {side}"):
                captions.append({"id": len(captions), "image_id": number, "caption": text})
            for kind, (question, answer) in _asked(colour, side, random).items():
                name = number * 10 + len(questions) % 3
                entry = {"question_id": name, "image_id": number}
                questions.append(entry | {"question": question})
                annotations.append(entry | _answered(kind, answer))
        _write(folder / f"v2_OpenEnded_tiny_{split}_questions.json", {"questions": questions})
        _write(folder / f"v2_tiny_{split}_annotations.json", {"annotations": annotations})
        content = {"images": images, "annotations": captions}
        _write(folder / "annotations" / f"captions_{split}.json", content)
    return folder


def write_clip(folder: Path, texts: list[str]) -> Path:
    """A random CLIP with its tokenizer and image processor."""
    tokenizer = train_tokenizer(texts, 300)
    torch.manual_seed(1)
    parts = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    parts["num_hidden_layers"] = 1
    text = parts | {"vocab_size": len(tokenizer), "max_position_embeddings": 24}
    text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": tokenizer.pad_token_id},
        vision_config=parts | {"image_size": SIZE, "patch_size": PATCH},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessor(size=size, crop_size=size)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def write_recipe(path: Path, task: str, **changes: object) -> Path:
    """A recipe of seconds; changes are lines of [training], `data` and `more` are TOML."""
    form = "vqa-v2" if task == "vqa" else "coco-captions"
    data = changes.pop("data", f'format = "{form}"\ntest = ["val"]')
    more = changes.pop("more", "")
    if task == "captions":
        changes = {"scores": ["bleu-4", "cider"]} | changes  # METEOR starts a program
    training = {"batch_size": 8, "learning_rate": 1e-2, "samples": 160, "log_every": 5} | changes
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in training.items())
    path.write_text(
        f'task = "{task}"\nabout = "A test."\n[model]\nhidden_size = 16\nnum_attention_heads = 2\n'
        "num_hidden_layers = 1\ninitializer_range = 0.2\n"
        f"[data]\n{data}\n[training]\n{lines}\n{more}\n",
        encoding="utf-8",
    )
    return path


def _draw(path: Path, colour: str, side: str) -> None:
    picture = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    picture.paste(COLOURS[colour], (SIDES[side], 8, SIDES[side] + 8, 16))
    picture.save(path)


def _asked(colour: str, side: str, random: np.random.Generator) -> dict[str, tuple[str, str]]:
    other = random.choice(list(COLOURS))
    return {
        "colour": ("what colour is it?", colour),
        "side": ("on which side is it?", side),
        "exists": (f"is it {other}?", "yes" if other == colour else "no"),
    }


def _answered(kind: str, answer: str) -> dict[str, object]:
    return {
        "question_type": kind,
        "answer_type": "yes/no" if kind == "exists" else "other",
        "multiple_choice_answer": answer,
        "answers": [
            {"answer": answer, "answer_id": at, "answer_confidence": "yes"} for at in range(1, 11)
        ],
    }


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
