"""Models trained and scored, and the world of scenes they are trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relmap.cli import app

if TYPE_CHECKING:
    from clipmapper.training import Run

train = typer.Typer(no_args_is_help=True, help="Train a model; a run that was killed goes on.")
score = typer.Typer(no_args_is_help=True, help="Measure a model on a data set.")
app.add_typer(train, name="train")
app.add_typer(score, name="score")

Data = Annotated[Path, typer.Option(help="Folder of the data.")]
Format = Annotated[str | None, typer.Option(help="See 'relmap list data'; or the recipe's.")]
Clip = Annotated[str, typer.Option(help="Folder or hub id of the frozen CLIP.")]
Mapper = Annotated[str, typer.Option(help="a (one stream) or b (two streams).")]
RecipeName = Annotated[str, typer.Option(help="Shipped recipe, or a TOML file.")]
Output = Annotated[Path, typer.Option(help="Folder for the model, its log and its card.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and dropout.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of features, used again by later runs.")]
Samples = Annotated[
    int | None,
    typer.Option(help="Length, if not the recipe's; stages, warm-up and decay go with it."),
]
Init = Annotated[Path | None, typer.Option(help="Model whose weights are the start.")]
Blind = Annotated[str | None, typer.Option(help="A control: what is hidden, image or question.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default what there is.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that open pictures.")]


@train.command()
def vqa(
    data: Data,
    clip: Clip,
    recipe: RecipeName,
    output: Output,
    mapper: Mapper = "a",
    format: Format = None,
    seed: Seed = 0,
    cache: Cache = None,
    samples: Samples = None,
    init: Init = None,
    answers: Annotated[Path | None, typer.Option(help="JSON file of the classes.")] = None,
    blind: Blind = None,
    device: Device = None,
    workers: Workers = 0,
) -> None:
    """Train a CLIPmapper to answer questions about pictures."""
    given = dict(locals())
    from clipmapper.training import train_vqa

    train_vqa(_run(given))


@train.command()
def captions(
    data: Data,
    clip: Clip,
    recipe: RecipeName,
    output: Output,
    mapper: Mapper = "a",
    format: Format = None,
    seed: Seed = 0,
    cache: Cache = None,
    samples: Samples = None,
    init: Init = None,
    blind: Blind = None,
    device: Device = None,
    workers: Workers = 0,
) -> None:
    """Train a CLIPmapper to describe pictures."""
    given = dict(locals())
    from clipmapper.training import train_captions

    train_captions(_run(given))


@train.command()
def clip(
    data: Data,
    output: Output,
    seed: Seed = 0,
    samples: Samples = None,
    format: Format = None,
    recipe: Annotated[str, typer.Option(help="scenes or easy-vqa.")] = "scenes",
) -> None:
    """Train a small CLIP on captions, and on regions where the data has them."""
    from clipmapper.training.clip_folder import find_source, train_clip_folder

    source = find_source(recipe, captions=format)
    train_clip_folder(data, output, source=source, samples=samples, seed=seed)


@train.command(name="easy-vqa")
def easy_vqa(data: Data, output: Output, seed: Seed = 0, samples: Samples = None) -> None:
    """Train a small CLIP and both CLIPmappers on easy-VQA, and score them."""
    from clipmapper.training.easy_vqa import train_easy_vqa

    found = train_easy_vqa(data, output, seed=seed, samples=samples)
    for mapper, scores in found["scores"].items():
        typer.echo(f"CLIPmapper-{mapper.upper()}")
        _print_scores(scores)
    minutes = (f"{name} {value:.1f}" for name, value in found["minutes"].items())
    typer.echo(f"minutes: {', '.join(minutes)}")


@app.command()
def scenes(
    output: Annotated[Path, typer.Option(help="Folder for the world.")],
    train: Annotated[int, typer.Option(min=0, help="Pictures to train on.")] = 48_000,
    val: Annotated[int, typer.Option(min=0, help="Pictures to watch.")] = 1_000,
    test: Annotated[int, typer.Option(min=0, help="Pictures with unseen pairs.")] = 2_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 1,
) -> None:
    """Draw a world of scenes with questions, captions and the truth of an explanation."""
    from clipmapper.scenes import write_scenes

    write_scenes(output, train=train, val=val, test=test, seed=seed, processes=processes)


Model = Annotated[Path, typer.Option(help="Folder of the model.")]
Split = Annotated[str, typer.Option(help="Split of the data.")]
Submission = Annotated[Path | None, typer.Option(help="Write the evaluation server's format.")]


@score.command(name="vqa")
def score_vqa(
    model: Model,
    data: Data,
    split: Split = "test",
    format: Format = None,
    cache: Cache = None,
    submission: Submission = None,
    device: Device = None,
    workers: Workers = 0,
) -> None:
    """Accuracy of answers, by kind of question and type of answer."""
    given = dict(locals())
    from clipmapper.training.score import Measurement, measure_vqa

    _print_scores(measure_vqa(Measurement(**given)))


@score.command(name="captions")
def score_captions(
    model: Model,
    data: Data,
    split: Split = "test",
    format: Format = None,
    cache: Cache = None,
    submission: Submission = None,
    device: Device = None,
    workers: Workers = 0,
    beams: Annotated[int, typer.Option(min=1, help="1 is greedy.")] = 1,
    clip: Annotated[
        str | None, typer.Option(help="A CLIP, for CLIPScore and RefCLIPScore besides.")
    ] = None,
) -> None:
    """Scores of captions: BLEU-4, CIDEr, and what else can be computed here."""
    given = dict(locals())
    from clipmapper.training.score import Measurement, measure_captions

    _print_scores(measure_captions(Measurement(**given)))


def _print_scores(found: dict[str, Any]) -> None:
    from clipmapper.training.card import score_notes, score_rows

    rows = list(score_rows(found))
    width = max(len(row[0]) for row in rows)
    for name, *values in rows:
        typer.echo(f"{name:{width}}  {'  '.join(f'{value:>8}' for value in values)}")
    for note in filter(None, score_notes(found)):
        typer.echo(note)


def _run(given: dict[str, Any]) -> "Run":
    from clipmapper.training import Run

    return Run(**given)
