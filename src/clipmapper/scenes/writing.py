"""Scenes on disk, in the official formats of VQA v2 and COCO.

    folder/train/000000000001.png                          the pictures of a split
    folder/v2_OpenEnded_scenes_train_questions.json        VQA v2
    folder/v2_scenes_train_annotations.json                with "evidence" beside the answers
    folder/annotations/captions_train.json                 COCO
    folder/annotations/instances_train.json                COCO, masks as uncompressed run lengths

A split is made in blocks of siblings; each block draws from its own random stream, so that the
same seed gives the same files on any number of processes.
"""

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipmapper.scenes.captions import describe_scene
from clipmapper.scenes.drawing import draw_masks, draw_scene
from clipmapper.scenes.kinds import KINDS
from clipmapper.scenes.questions import SceneQuestion, ask
from clipmapper.scenes.world import COLOURS, SHAPES, SIDE, SIZES, Scene, sample_siblings
from relmap.data import encode_mask
from relmap.errors import InputError

__all__ = ["CATEGORIES", "SPLITS", "world_texts", "write_scenes"]

SPLITS = ("train", "val", "test")  # test: every picture has a pair that the others never show
CATEGORIES = tuple(" ".join(words) for words in product(SIZES, COLOURS, SHAPES))

_BLOCK = 200  # pictures that share a random stream and the balance of their answers
_IMAGES, _QUESTIONS = 10_000_000, 100  # room for numbers: splits x images, images x questions


def write_scenes(
    folder: str | Path,
    *,
    train: int = 48_000,
    val: int = 1_000,
    test: int = 2_000,
    seed: int = 0,
    questions_per_image: int = 7,
    processes: int = 1,
) -> Path:
    """Writes the splits of a world of scenes, and returns the folder.

    Numbers of pictures are rounded up to whole groups of four siblings. The same arguments give
    the same bytes.

    Raises:
        InputError: If a number is out of range, or the folder already holds scenes.

    Example:
        >>> import tempfile
        >>> folder = write_scenes(tempfile.mkdtemp(), train=4, val=0, test=0)
        >>> len(list((folder / "train").iterdir()))
        4
    """
    sizes = {"train": train, "val": val, "test": test}
    wrong = {split: size for split, size in sizes.items() if not 0 <= size < _IMAGES}
    if wrong or not 1 <= questions_per_image <= len(KINDS):
        raise InputError(
            f"a split has 0 to {_IMAGES - 1} pictures (wrong: {wrong}), a picture 1 to "
            f"{len(KINDS)} questions (asked for {questions_per_image})"
        )
    folder = Path(folder)
    if any((folder / split).exists() for split in SPLITS):
        raise InputError(f"{folder} already holds scenes: give another folder, or remove it first")
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(SPLITS):
        if sizes[split]:
            _write_split(folder, number, sizes[split], seed, questions_per_image, processes)
    return folder


def world_texts(groups: int = 6) -> list[str]:
    """Every word of the world in running text: questions, answers and captions of some scenes.

    Example:
        >>> "size" in " ".join(world_texts())
        True
    """
    random = np.random.default_rng(7)
    asked: Counter[tuple[str, str, str]] = Counter()
    texts = []
    for held_out in (False, True):
        for _ in range(groups):
            for scene in sample_siblings(random, held_out):
                questions = (ask(scene, kind, random, asked) for kind in KINDS)
                found = [question for question in questions if question is not None]
                texts += [question.text for question in found]
                texts += [question.answer for question in found]
                texts += describe_scene(scene, random)
    return texts


def _write_split(
    folder: Path, number: int, size: int, seed: int, questions: int, processes: int
) -> None:
    split = SPLITS[number]
    (folder / split).mkdir()
    groups = -(-size // 4) * 4
    starts = range(0, groups, _BLOCK)
    work = partial(_write_block, folder, number, seed, questions)
    sizes = [min(_BLOCK, groups - start) for start in starts]
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            blocks = list(pool.map(work, starts, sizes))
    else:
        blocks = [work(start, count) for start, count in zip(starts, sizes, strict=True)]
    joined = {key: [row for block in blocks for row in block[key]] for key in blocks[0]}
    images = joined["images"]
    info = {"description": "relmap scenes", "seed": seed, "split": split}
    about = {"info": info, "data_type": "scenes", "data_subtype": split, "task_type": "Open-Ended"}
    _dump(
        folder / f"v2_OpenEnded_scenes_{split}_questions.json",
        about | {"questions": joined["questions"]},
    )
    _dump(
        folder / f"v2_scenes_{split}_annotations.json",
        about | {"annotations": joined["answers"]},
    )
    captions = {"info": info, "images": images, "annotations": joined["captions"]}
    _dump(folder / "annotations" / f"captions_{split}.json", captions)
    names = [{"id": index + 1, "name": name} for index, name in enumerate(CATEGORIES)]
    instances = {"info": info, "images": images, "annotations": joined["things"]}
    _dump(folder / "annotations" / f"instances_{split}.json", instances | {"categories": names})


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _write_block(
    folder: Path, number: int, seed: int, questions: int, start: int, size: int
) -> dict[str, list[Any]]:
    """The pictures of one block, and the rows that describe them."""
    random = np.random.default_rng([seed, number, start])
    asked: Counter[tuple[str, str, str]] = Counter()
    kinds: Counter[str] = Counter()
    keys = ("images", "questions", "answers", "captions", "things")
    rows: dict[str, list[Any]] = {key: [] for key in keys}
    scenes = [
        s for _ in range(size // 4) for s in sample_siblings(random, SPLITS[number] == "test")
    ]
    for offset, scene in enumerate(scenes):
        image_id = number * _IMAGES + start + offset + 1
        name = f"{image_id:012d}.png"
        Image.fromarray(draw_scene(scene)).save(folder / SPLITS[number] / name, compress_level=1)
        rows["images"].append({"id": image_id, "file_name": name, "height": SIDE, "width": SIDE})
        _add_things(rows, image_id, scene)
        captions = enumerate(describe_scene(scene, random))
        rows["captions"] += [
            {"id": image_id * 10 + index, "image_id": image_id, "caption": caption}
            for index, caption in captions
        ]
        for index, question in enumerate(_choose(scene, random, asked, kinds, questions)):
            _add_question(rows, image_id, index, question)
    return rows


def _choose(
    scene: Scene,
    random: np.random.Generator,
    asked: Counter[tuple[str, str, str]],
    kinds: Counter[str],
    count: int,
) -> list[SceneQuestion]:
    """Questions of different kinds, the kinds asked least so far first."""
    order = sorted(KINDS, key=lambda kind: kinds[kind] + 3 * random.random())
    found: list[SceneQuestion] = []
    for kind in order:
        question = ask(scene, kind, random, asked)
        if question is not None:
            kinds[kind] += 1
            found.append(question)
        if len(found) == count:
            break
    return found


def _add_things(rows: dict[str, list[Any]], image_id: int, scene: Scene) -> None:
    for index, (thing, mask) in enumerate(zip(scene.things, draw_masks(scene), strict=True)):
        y, x = np.nonzero(mask)
        left, top = int(x.min()), int(y.min())
        category = CATEGORIES.index(f"{thing.size} {thing.colour} {thing.shape}") + 1
        rows["things"].append(
            {
                "id": _thing_id(image_id, index),
                "image_id": image_id,
                "category_id": category,
                "bbox": [left, top, int(x.max()) - left + 1, int(y.max()) - top + 1],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": encode_mask(mask),
            }
        )


def _add_question(
    rows: dict[str, list[Any]], image_id: int, index: int, question: SceneQuestion
) -> None:
    question_id = image_id * _QUESTIONS + index
    about = {"question_id": question_id, "image_id": image_id}
    rows["questions"].append(about | {"question": question.text})
    answers = [
        {"answer": question.answer, "answer_confidence": "yes", "answer_id": number + 1}
        for number in range(10)
    ]
    kind = "yes/no" if question.answer in ("yes", "no") else "other"
    evidence = {
        "objects": [_thing_id(image_id, thing) for thing in question.evidence],
        "words": question.words,
        "label": question.label,
    }
    rows["answers"].append(
        about
        | {
            "question_type": question.kind,
            "answer_type": "number" if question.answer.isdigit() else kind,
            "multiple_choice_answer": question.answer,
            "answers": answers,
            "evidence": evidence,
        }
    )


def _thing_id(image_id: int, index: int) -> int:
    return image_id * 10 + index + 1
