"""The pictures of the README and these pages, from generated images and sentences alone.

    python docs/pictures.py

A small vision transformer learns in a minute which colours the shapes in a generated scene have,
and a small BERT which words make a generated sentence friendly. Both are saved as a user would
save a model, loaded with `relmap.load`, explained with `relmap.explain`, and drawn into
`docs/pictures/`.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import relmap

PICTURES = Path(__file__).parent / "pictures"
SIDE, PATCH, WIDTH = 64, 8, 1080
KINDS = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (214, 69, 65),
    "blue": (58, 124, 196),
    "green": (66, 160, 92),
    "gold": (226, 164, 44),
}
GOOD = ("wonderful", "delicious", "charming", "warm", "excellent", "fresh")
BAD = ("dreadful", "stale", "rude", "cold", "awful", "greasy")
THINGS = ("soup", "bread", "waiter", "room", "coffee", "music", "table", "garden")
FRAMES = (
    "the {thing} was {word}",
    "we found the {thing} {word}",
    "a {word} {thing} and nothing else",
    "my sister called the {thing} {word}",
)


# --- scenes -------------------------------------------------------------------------------------


def polygon(kind: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape around (x, y)."""
    if kind == "cross":
        arm, thin = radius, radius * 0.36
        outline = [(thin, thin), (arm, thin), (arm, -thin), (thin, -thin)]
        quarter = [(thin, -arm), (-thin, -arm), (-thin, -thin), (-arm, -thin)]
        corners = [*outline, *quarter, (-arm, thin), (-thin, thin), (-thin, arm), (thin, arm)]
    else:
        count = {"circle": 40, "square": 4, "triangle": 3}[kind]
        angles = [2 * math.pi * (corner + 0.5) / count for corner in range(count)]
        corners = [(radius * math.sin(angle), radius * math.cos(angle)) for angle in angles]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in corners]


def scene(colours: Sequence[str], chance: random.Random) -> Image.Image:
    """A picture with one shape of each given colour, apart from each other, on a mottled ground."""
    shade = chance.randint(150, 215)
    mottle = Image.new("RGB", (6, 6))
    mottle.putdata([(shade + chance.randint(-28, 28),) * 3 for _ in range(36)])
    picture = mottle.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    places: list[tuple[float, float]] = []
    for colour in colours:
        x = y = 0.0
        for _ in range(100):
            x, y = chance.uniform(11, SIDE - 11), chance.uniform(11, SIDE - 11)
            if all(math.dist((x, y), place) > 23 for place in places):
                break
        places.append((x, y))
        kind, turn = chance.choice(KINDS), chance.uniform(-0.3, 0.3)
        corners = polygon(kind, x, y, chance.uniform(8, 10.5), turn)
        pen.polygon([(4 * a, 4 * b) for a, b in corners], fill=COLOURS[colour])
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def random_scenes(count: int, seed: int) -> tuple[list[Image.Image], Tensor]:
    """Scenes with one to three shapes, and which colours they have."""
    chance = random.Random(seed)
    names = list(COLOURS)
    pictures, present = [], torch.zeros(count, len(names))
    for number in range(count):
        chosen = chance.sample(names, chance.randint(1, 3))
        pictures.append(scene(chosen, chance))
        present[number, [names.index(name) for name in chosen]] = 1
    return pictures, present


# --- training -----------------------------------------------------------------------------------


def train_shapes(folder: Path, steps: int) -> float:
    """Teach a small ViT which colours a scene holds; returns how often it is right on new ones."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=64, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=128, problem_type="multi_label_classification",
        id2label=dict(enumerate(COLOURS)), label2id={name: i for i, name in enumerate(COLOURS)},
    )  # fmt: skip
    network = ViTForImageClassification(config)
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})

    def pixels(pictures: list[Image.Image]) -> Tensor:
        return processor(pictures, return_tensors="pt")["pixel_values"]

    pictures, present = random_scenes(3000, seed=1)
    seen = pixels(pictures)
    fit(network, {"pixel_values": seen, "labels": present}, steps=steps, rate=1e-3)
    pictures, present = random_scenes(500, seed=2)
    with torch.no_grad():
        right = (network(pixels(pictures)).logits > 0) == (present > 0)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return float(right.float().mean())


def sentences(count: int, seed: int) -> tuple[list[str], Tensor]:
    """Sentences about a restaurant, and whether each is friendly."""
    chance = random.Random(seed)
    texts, friendly = [], []
    for _ in range(count):
        good = chance.random() < 0.5
        word = chance.choice(GOOD if good else BAD)
        texts.append(chance.choice(FRAMES).format(thing=chance.choice(THINGS), word=word))
        friendly.append(int(good))
    return texts, torch.tensor(friendly)


def train_reviews(folder: Path, steps: int) -> float:
    """Teach a small BERT whether a sentence is friendly; returns how often it is right."""
    from transformers import BertConfig, BertForSequenceClassification

    texts, friendly = sentences(2000, seed=1)
    tokenizer = word_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=32,
        id2label={0: "unfriendly", 1: "friendly"}, label2id={"unfriendly": 0, "friendly": 1},
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    fit(network, {**batch, "labels": friendly}, steps=steps, rate=5e-4)
    texts, friendly = sentences(300, seed=2)
    with torch.no_grad():
        said = network(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return float((said == friendly).float().mean())


def word_tokenizer(texts: Sequence[str]) -> object:
    """A tokenizer whose tokens are the words of some texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    numbers = {word: number for number, word in enumerate([*special, *words, ".", ","])}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=32,
    )  # fmt: skip


def fit(network: nn.Module, data: dict[str, Tensor], *, steps: int, rate: float) -> None:
    """Minimise the network's own loss on random batches of the data."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    count = len(data["labels"])
    for step in range(steps):
        chosen = torch.randint(count, (64,))
        loss = network(**{name: values[chosen] for name, values in data.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step}: loss {loss.item():.3f}", flush=True)
    network.eval()


# --- pictures -----------------------------------------------------------------------------------


def main() -> None:
    """Trains both models, explains, draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="training steps of the ViT")
    parser.add_argument("--keep", type=Path, help="leave the models and the scene in this folder")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        print(f"shapes: {train_shapes(folder / 'shapes', given.steps):.1%} right on new scenes")
        print(f"reviews: {train_reviews(folder / 'reviews', 300):.1%} right on new sentences")
        draw_all(folder)


def draw_all(folder: Path) -> None:
    """Every picture, from the saved models."""
    picture = folder / "scene.png"
    scene(("red", "blue", "gold"), random.Random(11)).save(picture)
    model = relmap.load(str(folder / "shapes"))
    result = relmap.explain(model, image=[picture, picture], target=["red", "gold"])
    save(result, "shapes.png")
    model = relmap.load(str(folder / "reviews"))
    text = "my sister called the garden charming"
    save(relmap.explain(model, text=text, method="wra"), "review.png")


def save(result: relmap.Attribution, name: str) -> None:
    """Draw, with few enough colours for a small file."""
    result.save(PICTURES / name)
    with Image.open(PICTURES / name) as drawn:
        size = (WIDTH, drawn.height * WIDTH // drawn.width)
        small = drawn.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    few = small.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    few.save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    main()
