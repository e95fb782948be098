"""The demo: the shipped model answers questions about scenes, and says why."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from relmap.cli import app

if TYPE_CHECKING:
    from clipmapper.demo import DemoAnswer


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("relmap-demo"),
    model: Annotated[str, typer.Option(help="demo, or demo:b-vqa.")] = "demo",
    method: Annotated[str, typer.Option(help="See 'relmap list methods'.")] = "wra",
    count: Annotated[int, typer.Option(min=1, help="How many questions.")] = 5,
    top: Annotated[int, typer.Option(min=1, help="How many words and patches to print.")] = 3,
) -> None:
    """Ask the model that comes with relmap about pictures it never saw, and show why it says so."""
    from clipmapper.demo import run_demo

    console = Console(highlight=False, soft_wrap=True)
    right = 0
    for number, found in enumerate(
        run_demo(output, model=model, count=count, method=method), start=1
    ):
        right += found.answer == found.scene.question.answer
        _print(console, number, found, top)
    console.print(Text(f"{right} of {count} answers are right", style="bold"))
    if importlib.util.find_spec("matplotlib") is None:
        console.print('For pictures of the explanations: pip install "relmap[plot]"', markup=False)


def _print(console: Console, number: int, found: "DemoAnswer", top: int) -> None:
    question = found.scene.question
    verdict = "right" if found.answer == question.answer else f"wrong: {question.answer}"
    console.print(Text(f"{number}. {question.text}", style="bold"))
    console.print(Text.assemble("   answer   ", (found.answer, "bold"), f" ({verdict})"))
    result = found.explanation
    for source, name in ((result.text.name, "words"), (result.image.name, "patches")):
        best = result.top(source, top)[0]
        shown = ", ".join(f"{label.replace('Ġ', '')} {score:.2f}" for _, label, score in best)
        console.print(Text(f"   {name:8} {shown}"))
    share = f"{found.on_evidence:.0%} of the relevance, {found.by_chance:.0%} of the picture"
    console.print(Text(f"   evidence {share}"))
    if found.picture is not None:
        console.print(Text(f"   picture  {found.picture}"))
