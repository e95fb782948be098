"""A small text classifier, trained from nothing, whose explanations people's marks can judge.

    python benchmarks/text_classifier.py HATEXPLAIN OUTPUT

HATEXPLAIN is a folder with train.csv and hatexplain_validation.json. A WordPiece vocabulary and a
BERT of two layers are made from the training posts alone; posts that are among the validation posts
too are left out. OUTPUT is a folder of transformers that `relmap.load` reads, with `report.json`
beside the weights: accuracy and macro-F1 on the validation posts, next to always saying the most
frequent class. The last epoch is kept, so that nothing is chosen on the posts that judge it. About
five minutes of one core; the same seed gives the same model on the same machine.
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from relmap.data import DATA
from relmap.data.example import Example
from relmap.data.hatexplain import LABELS

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
LONGEST = 128


@dataclass(frozen=True)
class Recipe:
    """Everything that is chosen about the training.

    A share of the words, `holes`, is replaced by the mask token in training, which keeps the
    classifier from resting on a single word. It has then seen texts with holes, so that tests which
    make holes do not show it something wholly new. With `guessing_epochs` the network first learns
    to guess hidden words of the posts, a share `guessed` of them.
    """

    vocabulary: int = 6000
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.2
    guessing_epochs: int = 0
    epochs: int = 7
    batch: int = 64
    guessing_rate: float = 1e-3
    rate: float = 5e-4
    decay: float = 0.05
    guessed: float = 0.2
    holes: float = 0.15
    smoothing: float = 0.1
    seed: int = 0


def make_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A WordPiece vocabulary of the texts, lower case, with BERT's special tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = list(SPECIAL.values())
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (SPECIAL["cls"], SPECIAL["sep"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{kind}_token": name for kind, name in SPECIAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
        **names,
    )


def make_config(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=0.1,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )


@dataclass(frozen=True)
class Posts:
    """Posts as numbers."""

    ids: tuple[tuple[int, ...], ...]
    labels: Tensor
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def read(cls, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> "Posts":
        found = tokenizer([one.text for one in examples], truncation=True)["input_ids"]
        labels = torch.tensor([int(one.label) for one in examples])  # type: ignore[arg-type]
        return cls(tuple(map(tuple, found)), labels, tokenizer)

    def padded(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids of some posts and where they are no padding."""
        rows = [torch.tensor(self.ids[one]) for one in chosen]
        padding = self.tokenizer.pad_token_id
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
        return ids, ids != padding

    def batches(self, size: int, generator: torch.Generator) -> Iterator[list[int]]:
        """All posts in a random order, those of about the same length together."""
        length = torch.tensor([len(one) for one in self.ids])
        noise = torch.rand(len(length), generator=generator)
        order = (length + 6 * noise).argsort().split(size)
        for place in torch.randperm(len(order), generator=generator).tolist():
            yield order[place].tolist()


def hide(
    ids: Tensor, share: float, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Ids with a share of the words' tokens hidden, and which they are."""
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    hidden = (torch.rand(ids.shape, generator=generator) < share) & ~special
    return ids.masked_fill(hidden, tokenizer.mask_token_id), hidden


def descend(network: torch.nn.Module, rate: float, decay: float, steps: int) -> tuple[Any, Any]:
    """AdamW, with a rate that rises over a tenth of the steps and then falls to nothing."""
    plain = [one for one in network.parameters() if one.ndim < 2]
    matrices = [one for one in network.parameters() if one.ndim >= 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))

    def share(step: int) -> float:
        warm = max(1, steps // 10)
        return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, share)


def train(
    network: torch.nn.Module, posts: Posts, recipe: Recipe, epochs: int, loss_of: Any, rate: float
) -> None:
    """Epochs over the posts with some loss of a batch's (ids, seen, labels, generator)."""
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = epochs * math.ceil(len(posts.ids) / recipe.batch)
    optimiser, schedule = descend(network, rate, recipe.decay, steps)
    network.train()
    for epoch in range(epochs):
        start, losses = time.perf_counter(), []
        for chosen in posts.batches(recipe.batch, generator):
            loss = loss_of(*posts.padded(chosen), posts.labels[chosen], generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}, {seconds:.0f} s",
            flush=True,
        )


def learn(posts: Posts, recipe: Recipe) -> BertForSequenceClassification:
    """Guesses hidden words of the posts first, if it is to, and then learns their classes."""
    torch.manual_seed(recipe.seed)
    config, tokenizer = make_config(posts.tokenizer, recipe), posts.tokenizer
    guesser = BertForMaskedLM(config)

    def guess(ids: Tensor, seen: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
        inputs, hidden = hide(ids, recipe.guessed, tokenizer, generator)
        states = guesser.bert(input_ids=inputs, attention_mask=seen).last_hidden_state[hidden]
        # the vocabulary is scored only where a token is asked for
        return torch.nn.functional.cross_entropy(guesser.cls(states), ids[hidden])

    train(guesser, posts, recipe, recipe.guessing_epochs, guess, recipe.guessing_rate)
    network = BertForSequenceClassification(config)
    network.bert.load_state_dict(guesser.bert.state_dict(), strict=False)  # but for the pooler

    def classify(ids: Tensor, seen: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        inputs, _ = hide(ids, recipe.holes, tokenizer, generator)
        logits = network(input_ids=inputs, attention_mask=seen).logits
        smoothing = recipe.smoothing
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    train(network, posts, recipe, recipe.epochs, classify, recipe.rate)
    return network.eval()


@torch.no_grad()
def predict(network: BertForSequenceClassification, posts: Posts) -> Tensor:
    """The class that is said of every post."""
    found = []
    for chosen in torch.arange(len(posts.ids)).split(256):
        ids, seen = posts.padded(chosen.tolist())
        found.append(network(input_ids=ids, attention_mask=seen).logits.argmax(dim=1))
    return torch.cat(found)


def judge(said: Tensor, true: Tensor) -> dict[str, Any]:
    """Accuracy, and F1 = 2 tp / (2 tp + fp + fn) of each class with its mean."""
    scores = []
    for label in range(len(LABELS)):
        hits = int(((said == label) & (true == label)).sum())
        total = int((said == label).sum() + (true == label).sum())
        scores.append(2 * hits / total if total else 0.0)
    return {
        "accuracy": float((said == true).double().mean()),
        "macro_f1": float(np.mean(scores)),
        "f1": dict(zip(LABELS, scores, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hatexplain", type=Path)
    parser.add_argument("output", type=Path)
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = vars(parser.parse_args())
    folder, output, recipe = given.pop("hatexplain"), given.pop("output"), Recipe(**given)
    start = time.process_time()
    read = DATA.get("hatexplain").function
    judged = read(folder, split="validation")
    known = {one.text for one in judged}
    training = [one for one in read(folder, split="train") if one.text not in known]
    tokenizer = make_tokenizer([one.text for one in training], recipe.vocabulary)
    network = learn(Posts.read(training, tokenizer), recipe)
    posts = Posts.read(judged, tokenizer)
    common = Counter(one.label for one in training).most_common(1)[0][0]
    report = {
        "recipe": asdict(recipe),
        "training posts": len(training),
        "validation posts": len(judged),
        "parameters": sum(one.numel() for one in network.parameters()),
        "validation": judge(predict(network, posts), posts.labels),
        f"always {LABELS[common]}": judge(torch.full_like(posts.labels, common), posts.labels),
        "core seconds": round(time.process_time() - start),
    }
    network.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
