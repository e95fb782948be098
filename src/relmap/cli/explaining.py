"""One prediction explained: the most relevant tokens on the screen, the picture in a file."""

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relmap.cli.application import app
from relmap.cli.comparing import method_names, show_comparison
from relmap.errors import InputError, MissingExtraError
from relmap.files import to_json
from relmap.options import read_options
from relmap.plain_text import visible

if TYPE_CHECKING:
    from relmap.result.attribution import Attribution


@app.command()
def explain(
    model: Annotated[
        str, typer.Option(help="Hub id, local folder, 'timm:...' or 'open_clip:...'.")
    ],
    image: Annotated[str | None, typer.Option(help="Picture file.")] = None,
    text: Annotated[str | None, typer.Option(help="Text, or the question about it.")] = None,
    audio: Annotated[str | None, typer.Option(help="Sound file.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="See 'relmap list methods'; several with commas, or 'all'."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Class number or label; without it, the prediction.")
    ] = None,
    backward: Annotated[str | None, typer.Option(help="See 'relmap list backwards'.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the method, name=value; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="For example cuda:0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="For example bfloat16.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a .png, .safetensors or .json file.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many tokens to print.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings.")
    ] = False,
) -> None:
    """Explain one prediction: print the most relevant tokens, write the picture."""
    given = {"image": image, "text": text, "audio": audio, "method": method, "backward": backward}
    settings = {name: value for name, value in given.items() if value is not None}
    if not {"image", "text", "audio"} & settings.keys():
        raise InputError("nothing to explain: give --image, --text or --audio")
    for name, value in read_options(option or [], "--option").items():
        if name in (*given, "target", "model"):
            raise InputError(f"{name!r} is no option of a method: use --{name}")
        settings[name] = value
    # Libraries below may print; with --json nothing but JSON may reach stdout.
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        import relmap
        from relmap.files import endings_of

        names = method_names(method)
        if names is not None and (json or option):
            raise InputError("--json and --option go with a single method")
        _check_ending(output, endings_of(relmap.Attribution) if names is None else (".png",))
        loaded = relmap.load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        if names is not None:
            del settings["method"]
            show_comparison(loaded, names, output, target=_target(target), **settings)
            return
        result = relmap.explain(loaded, target=_target(target), **settings)
        if output is not None:
            result.save(output)
    if json:
        typer.echo(to_json(result.to_dict(), indent=1))
    else:
        _report(result, top, output)


def _target(value: str | None) -> int | str | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        return value


def _check_ending(output: Path | None, endings: Sequence[str]) -> None:
    """Refuse early what could not be written after a long computation."""
    if output is None:
        return
    if output.suffix.lower() not in endings:
        raise InputError(f"cannot save {output.name!r}: it must end in one of {list(endings)}")
    if output.suffix.lower() == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("plot")
    if not output.parent.is_dir():
        raise InputError(f"cannot write {str(output)!r}: there is no folder {str(output.parent)!r}")


def _report(result: "Attribution", top: int, output: Path | None) -> None:
    """The prediction, the target, and one table of top tokens per source."""
    console = Console(highlight=False)
    for index, example in enumerate(result):
        if len(result) > 1:
            console.print(Text(f"example {index}", style="bold"))
        for what, said in (("prediction", example.prediction[0]), ("target", example.target[0])):
            console.print(Text.assemble((f"{what:12}", "bold"), visible(said)), soft_wrap=True)
        for name in example.scores:
            console.print(_table(example, name, top))
    if output is not None:
        console.print(Text(visible(f"wrote {output}")), soft_wrap=True)


def _table(example: "Attribution", name: str, top: int) -> Table:
    from relmap.result.token_text import readable

    layout = example.layout[name]
    words = [piece.text for piece in readable(layout)] if layout.tokens else None
    heading = "patch" if layout.grid is not None else "token"
    heading_text = Text(visible(f"{name} by relevance"), style="bold")
    table = Table(title=heading_text, title_justify="left")
    table.add_column("index", justify="right")
    table.add_column(heading, overflow="fold")
    table.add_column("relevance", justify="right", no_wrap=True)
    for token, label, score in example.top(name, top)[0]:
        shown = words[token] if words else visible(label)
        # Text, since rich would read the brackets of [UNK] as markup.
        table.add_row(str(token), Text(shown), f"{score:.4g}")
    return table
