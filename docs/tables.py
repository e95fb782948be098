"""The generated tables: methods (here and in the README), metrics, coverage of architectures.

    python docs/tables.py methods
    python docs/tables.py metrics
    python docs/tables.py coverage --family transformers --family torch

Methods come from the registry. Coverage explains every architecture of `tests/architectures` that
this environment can build and merges the rows into `docs/coverage.json`, so that environments with
different libraries each add theirs; `docs/coverage.md` is written from that file.
"""

import argparse
import inspect
import json
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import relmap
from relmap.backwards import BACKWARDS
from relmap.data import DATA
from relmap.methods import METHODS, MethodEntry
from relmap.metrics import METRICS
from relmap.metrics.hiding import FILLS
from relmap.metrics.perturbation import PRESETS
from relmap.registry import Entry
from relmap.request.compatibility import default_backward, fits

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BEGIN, END = "<!-- methods: python docs/tables.py methods -->", "<!-- /methods -->"
FAMILIES = ("transformers", "torch", "timm", "open_clip", "torchvision")

ON_BACKWARDS = (
    "A backward says what every operation passes back. One of the gradient family changes the "
    "gradients that a method reads; one of the relevance family gives every attention map its "
    "relevance R_A, which takes the place of A beside the plain gradient. An operation without a "
    "rule is an error that names it: a plain gradient there would make a wrong map."
)

NEEDS = {
    "graph": "the token graph",
    "attention": "attention maps",
    "attention-gradient": "their gradient",
    "contribution": "(A * dA) as a whole, in whose place comes what a mixer's tokens contribute",
    "join-gradient": "gradients of residual stream and attention branch",
    "stream-gradient": "gradients of the residual stream",
    "bias-gradient": "gradients of biases",
    "attention-relevance": "relevance of attention maps",
    "token-relevance": "relevance of tokens and pixels",
    "output": "the network's output",
    "replay": "parts of the network run again",
}
JUDGED = {
    (): "the map against a mask",
    ("mask",): "the map against a mask",
    ("words",): "the relevance of words against those that people marked",
    ("model",): "the map against the model, asked again",
}
REASONS = {
    "add_zero_attn": "`add_zero_attn` adds a key that no token made",
    "bias_k": "`add_bias_kv` adds a key that no token made",
    "channel": "attends between channels, not tokens",
    "cumsum": "mixes tokens by a cumulative sum",
    "deformable": "deformable attention samples between tokens",
    "did not follow": "part of it acts through attention scores alone, not through tokens",
    "fft": "mixes tokens by a Fourier transform",
    "linear": "linear or landmark attention: no softmax between tokens",
    "list of tensors": "takes lists of tensors, which are not followed",
    "lstm": "a recurrent network without attention",
    "no attention": "no attention between tokens",
    "outlook": "outlook attention predicts its weights from one token",
    "reversible": "reversible layers hide their gradients",
    "state": "a state space model without attention",
    "told apart": "mixes tokens into tokens that cannot be told apart",
}


# --- methods ------------------------------------------------------------------------------------


def name_list() -> str:
    """The methods and backwards as the README lists them: by name."""
    lists = (("Methods", METHODS.names()), ("Backwards", BACKWARDS.names()))
    lines: list[str] = []
    for title, names in lists:
        text = f"{title}: " + ", ".join(f"`{name}`" for name in names) + "."
        lines += [*textwrap.wrap(text, 100, break_on_hyphens=False), ""]
    return "\n".join(lines[:-1])


def short_table(entries: Sequence[Entry[Any]]) -> str:
    """Entries of a registry in short: name, sentence, reference."""
    lines = ["| name | what it does | reference |", "|---|---|---|"]
    for entry in entries:
        lines.append(f"| `{entry.name}` | {_cell(entry.about)} | {_cell(entry.reference)} |")
    return "\n".join(lines)


def methods_page() -> str:
    """The page on methods: the short table, then each with its options and its docstring."""
    parts = [
        "# Methods",
        "",
        f"Written by `python {_place(__file__)} methods`; change the code.",
        "",
    ]
    parts += [short_table(METHODS.entries()), ""]
    for entry in METHODS.entries():
        parts += _section(entry)
    parts += ["# Backwards", "", *textwrap.wrap(ON_BACKWARDS, 100), ""]
    parts += [short_table(BACKWARDS.entries()), ""]
    for entry in BACKWARDS.entries():
        parts += [f"## `{entry.name}`", "", inspect.getdoc(entry.function) or "", ""]
        parts += [f"* Reference: {entry.reference}", f"* Family: {entry.family}", ""]
        parts += _options(BACKWARDS.options(entry.name))
    return "\n".join(parts).rstrip() + "\n"


def _section(entry: MethodEntry) -> list[str]:
    text = inspect.getdoc(entry.function) or ""
    needs = ", ".join(NEEDS.get(need, need) for need in entry.needs) or "nothing but the tokens"
    depends = "yes" if entry.target_dependent else "no"
    names = ", ".join(f"`{alias}`" for alias in entry.aliases) or "none"
    lines = [f"## `{entry.name}`", "", text, ""]
    lines += [f"* Reference: {entry.reference}", f"* Reads: {needs}"]
    lines += [f"* Depends on the target: {depends}", f"* Other names: {names}"]
    if entry.requires:
        lines.append(f"* Requires {entry.requires}")
    others = [one.name for one in BACKWARDS.entries() if fits(entry, one)]
    own = default_backward(entry)
    listed = ", ".join(f"`{name}`" + (" (its own)" if name == own else "") for name in others)
    lines += [f"* Backwards: {listed}", ""]
    return lines + _options(METHODS.options(entry.name))


def _options(options: Mapping[str, inspect.Parameter]) -> list[str]:
    if not options:
        return []
    lines = ["| option | default | values |", "|---|---|---|"]
    for name, option in options.items():
        lines.append(f"| `{name}` | `{option.default!r}` | {_values(option)} |")
    return [*lines, ""]


def _values(option: inspect.Parameter) -> str:
    kind = option.annotation if isinstance(option.annotation, str) else str(option.annotation)
    kind = kind.replace("typing.", "").replace("<class '", "").replace("'>", "")
    if kind.startswith("Literal["):
        return ", ".join(f"`{value.strip()}`" for value in kind[8:-1].split(","))
    return _cell(f"`{kind}`")


def with_table(readme: str) -> str:
    """The README with its list of methods brought up to date."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md lacks the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{name_list()}\n{END}{tail}"


def write_methods() -> None:
    """Writes docs/methods.md and the table of the README."""
    (DOCS / "methods.md").write_text(methods_page(), encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")


# --- metrics ------------------------------------------------------------------------------------


def metrics_page() -> str:
    """The page on metrics: the short table, each with its options, presets and data formats."""
    parts = [
        "# Metrics",
        "",
        f"Written by `python {_place(__file__)} metrics`; change the code.",
        "",
    ]
    parts += ["| metric | category | better | reference |", "|---|---|---|---|"]
    for entry in METRICS.entries():
        cells = [entry.category, _direction(entry.direction), _cell(entry.reference)]
        parts.append(f"| [`{entry.name}`](#{entry.name}) | {' | '.join(cells)} |")
    parts.append("")
    for entry in METRICS.entries():
        parts += [f"## `{entry.name}`", "", inspect.getdoc(entry.function) or "", ""]
        parts += [f"* Reference: {entry.reference}", f"* Judges: {JUDGED[entry.needs[:1]]}", ""]
        parts += _options(METRICS.options(entry.name))
    parts += ["# Presets of `perturbation`", ""]
    names = ["source", "unit", "fill", "steps", "count", "measure", "tail", "scale"]
    for name, preset in PRESETS.items():
        values = [f"{key} {_short(getattr(preset, key))}" for key in names]
        parts += textwrap.wrap(f"* `{name}`: {preset.reference}. {'; '.join(values)}.", 100,
                               subsequent_indent="  ", break_on_hyphens=False)  # fmt: skip
    parts += ["", "# Fills", ""]
    parts += [f"* `{name}`: {about}" for name, about in FILLS.items()]
    parts += ["", "# Data formats", "", short_table(DATA.entries()), ""]
    return "\n".join(parts).rstrip() + "\n"


def _direction(direction: str | Mapping[str, str]) -> str:
    if isinstance(direction, str):
        return direction
    ways = {
        way: [name for name in direction if direction[name] == way] for way in ("higher", "lower")
    }
    plain = {way: [name for name in names if "@" not in name] for way, names in ways.items()}
    return "; ".join(f"{way}: {', '.join(names)}" for way, names in plain.items() if names)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        numbers = [f"{one:g}" for one in value]
        return ", ".join(numbers if len(numbers) < 12 else [*numbers[:3], "...", numbers[-1]])
    return str(value)


# --- coverage -----------------------------------------------------------------------------------


def cover(names: Sequence[str], families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """One row for every architecture of these families that this environment can build."""
    sys.path.insert(0, str(ROOT / "tests"))
    import conftest  # noqa: F401 - no network, and torchvision beside a CPU build of torch
    from architectures import ARCHITECTURES

    rows = {}
    for name, entry in sorted(ARCHITECTURES.items()):
        if entry.family in families and (not names or name in names):
            rows[name] = _row(entry)
            print(f"{name}: {rows[name]['status']} {rows[name].get('reason', '')}", flush=True)
    return rows


def _row(entry: Any) -> dict[str, Any]:
    """What relmap says of one architecture, under each of its attention implementations."""
    row: dict[str, Any] = {"family": entry.family, "has": entry.attentions}
    for implementation in entry.implementations:
        found = _explain(entry, implementation)
        if implementation == "sdpa" and entry.sdpa_mixers:
            continue  # a kernel hides its attentions there; the row is of those that can be seen
        if found["status"] == "explained" and found["recorded"] != entry.attentions:
            found = _open(f"{found['recorded']} of {entry.attentions} attentions recorded")
        if entry.approximate and found.get("approximate") == []:
            found = _open("an approximation is not flagged")
        if (found["status"] == "refused") != (entry.refused is not None):
            found = _open(found.get("reason", "explained, though it should be refused"))
        if found["status"] == "refused":
            found["reason"] = REASONS.get(entry.refused, entry.refused)
        row.update(found)
        if found["status"] == "open":
            break
    return row


def _open(reason: str) -> dict[str, Any]:
    return {"status": "open", "reason": reason}


def _explain(entry: Any, implementation: str | None) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = entry.build(implementation)
        try:
            result = relmap.explain(
                built.network, target=built.target, method="genatt", **built.inputs
            )
        except relmap.RelmapError as error:
            reason = " ".join(str(error).split())
            return {"status": "refused", "reason": reason, "alone": _works_alone(built)}
        except Exception as error:  # a bug of ours, and a row of the table says so
            return _open(f"{type(error).__name__}: {error}".splitlines()[0][:160])
    return {
        "status": "explained",
        "backwards": _backwards(built),
        "recorded": result.meta["attentions"],
        "explained": result.meta["explained_attentions"],
        "mixers": len(result.meta["mixers"]),
        "approximate": sorted({_plain(what) for what in result.meta["approximate"]}),
        "sources": list(result.scores),
    }


def _works_alone(built: Any) -> bool:
    """Whether a method that reads nothing but the tokens that enter explains a network."""
    try:
        relmap.explain(
            built.network, target=built.target, method="input-x-gradient", **built.inputs
        )
    except relmap.RelmapError:
        return False
    return True


def _backwards(built: Any) -> dict[str, str]:
    """Which backwards work on a network: "yes", or the refusal in short."""
    found: dict[str, str] = {}
    for name in BACKWARDS.names():
        try:
            relmap.explain(built.network, target=built.target, backward=name, **built.inputs)
            found[name] = "yes"
        except relmap.RelmapError as error:
            operations = re.findall(r"'([a-z_0-9]+)'", str(error))
            found[name] = f"no: {operations[-1]}" if operations else "no"
    return found


def _plain(what: str) -> str:
    """A flag without the module that it was raised in."""
    return what.partition(", in ")[0]


def merge(rows: Mapping[str, Any]) -> dict[str, Any]:
    """All rows known so far, the given ones replacing older ones; written to docs/coverage.json."""
    path = DOCS / "coverage.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = dict(sorted({**known, **rows}.items()))
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in known.items()
    )
    path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    return known


def coverage_page(rows: Mapping[str, Any]) -> str:
    """The page on coverage: counts, then one table per library."""
    explained = [row for row in rows.values() if row["status"] == "explained"]
    mixed = sum(bool(row.get("mixers")) for row in explained)
    exact = sum(not row["approximate"] and not row.get("mixers") for row in explained)
    alone = sum(row.get("alone", False) for row in rows.values())
    refused = sum(row["status"] == "refused" for row in rows.values())
    still = sum(row["status"] == "open" for row in rows.values())
    lines = [
        "# Coverage",
        "",
        f"Written by `python {_place(__file__)} coverage` from tiny random models of "
        f"{len(rows)} architectures: **{exact} are explained exactly, "
        f"{len(explained) - exact - mixed} approximately, {mixed} with mixers, {refused} are "
        f"refused**, {alone} of these but for methods that read no attention"
        + (f", {still} are not right yet." if still else "."),
        "",
        "*Attentions* are those of one forward pass, all of them recorded; in brackets those that",
        "the explained output is made of, where these are fewer. *Approximate* says where tokens",
        "see their neighbours on other ways than attention. *Mixers* mix tokens by something else",
        "than softmax attention: `genatt`, `wra` and `attgrad` read what their tokens contribute.",
        "A refusal is an error with a reason; *sources only* says that `input-x-gradient`,",
        "`integrated-gradients` and `occlusion` explain the network all the same.",
        "The default target is explained where there is one, else a simple function of the output.",
        "*Exactly* means that every attention was recorded and nothing is flagged. A column for",
        "each backward says whether it has a rule for every operation, or names one that lacks it.",
    ]
    for family in FAMILIES:
        part = {name: row for name, row in rows.items() if row["family"] == family}
        if part:
            lines += ["", f"## {family}", "", *_coverage_table(part)]
    return "\n".join(lines) + "\n"


def _coverage_table(rows: Mapping[str, Any]) -> list[str]:
    columns = [name for name in BACKWARDS.names() if name != "gradient"]
    head = ["architecture", "attentions", "result", *columns, "sources"]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|" + "---|" * (len(head) - 2)]
    for name, row in rows.items():
        count = str(row["has"])
        result = row["status"]
        if result == "explained":
            count += f" ({row['explained']})" if row["explained"] != row["has"] else ""
            result += f" with {row['mixers']} mixers" if row.get("mixers") else ""
            result += (
                " approximately: " + "; ".join(row["approximate"]) if row["approximate"] else ""
            )
        else:
            result = f"{'refused' if result == 'refused' else 'not yet'}: {row['reason']}"
            result += " (sources only)" if row.get("alone") else ""
        sources = ", ".join(f"`{source}`" for source in row.get("sources", ()))
        works = row.get("backwards", {})
        cells = [works.get(column, "") for column in columns]
        cells = [_cell(name), count, _cell(result), *cells, sources]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


# --- the rest -----------------------------------------------------------------------------------


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _place(path: str) -> str:
    return Path(path).resolve().relative_to(ROOT).as_posix()


def main(words: Sequence[str] | None = None) -> None:
    """Writes the table that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=("methods", "metrics", "coverage"))
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    parser.add_argument("--name", action="append", help="only this architecture (repeatable)")
    given = parser.parse_args(words)
    if given.table == "methods":
        write_methods()
        return
    if given.table == "metrics":
        (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8")
        return
    rows = merge(cover(given.name or [], given.family or FAMILIES))
    (DOCS / "coverage.md").write_text(coverage_page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
