"""The caption of the most similar training picture, as a baseline for written captions.

    python benchmarks/retrieval.py CLIP DATA --split test

CLIP is a folder with a CLIP model, DATA a folder in the COCO captions format. Every picture of the
split is given the first caption of the training picture whose CLIP embedding has the largest
cosine with its own; the scores are those of `relmap score captions`.
"""

import argparse
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from relmap.data import DATA, CaptionedImage
from relmap.scoring.captions import score_captions

BATCH = 128


def embed(folder: str, pictures: Sequence[CaptionedImage]) -> Tensor:
    """Unit image embeddings of pictures."""
    from transformers import AutoImageProcessor, CLIPModel

    clip = CLIPModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    found: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            images = [Image.open(one.image).convert("RGB") for one in part]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            hidden = clip.vision_model(pixel_values=pixels).pooler_output
            found.append(torch.nn.functional.normalize(clip.visual_projection(hidden), dim=-1))
    return torch.cat(found)


def retrieve(
    folder: str, known: Sequence[CaptionedImage], asked: Sequence[CaptionedImage]
) -> list[str]:
    """The first caption of the most similar known picture, for every asked one."""
    keys, queries = embed(folder, known), embed(folder, asked)
    return [known[index].captions[0] for index in (queries @ keys.T).argmax(dim=-1).tolist()]


def main(words: Sequence[str] | None = None) -> None:
    """Prints the scores of the retrieved captions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--format", default="coco-captions")
    given = parser.parse_args(words)
    read = DATA.get(given.format).function
    known, asked = read(given.data, split="train"), read(given.data, split=given.split)
    written = retrieve(given.clip, known, asked)
    scores = score_captions(written, [one.captions for one in asked])
    print({name: round(100 * score.overall, 2) for name, score in scores.items()})


if __name__ == "__main__":
    main()
