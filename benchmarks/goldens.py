"""Golden errors: the largest difference from the authors' own numbers, by family and method.

    python benchmarks/goldens.py FOLDER --output goldens.md

FOLDER holds one folder of cases for each family. Every quantity is computed from the public API
under each attention implementation, in float32 and in float64; the errors are relative L2.
Quantities whose float32 error is above its tolerance are counted in the last column.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from goldens import (
    FAMILIES,
    LXMERT,
    VISUALBERT,
    VIT_RELEVANCE,
    Comparison,
    find_cases,
    read_case,
)

PRESETS = {"lxmert": LXMERT, "detr": LXMERT, "visualbert": VISUALBERT, "vit": VIT_RELEVANCE}

# By a part of the name; the first that fits.
METHODS = {
    "transformer_attribution": "transformer-attribution",
    "full_lrp_ours_rules": "full-lrp, backward=deep-taylor",
    "full_lrp": "full-lrp",
    "partial_lrp": "partial-lrp",
    "genatt": "genatt",
    "text.score": "genatt",
    "rollout": "rollout",
    "attn_last_layer": "raw-attention",
    "gradcam": "attention-gradcam",
}


@dataclass(frozen=True)
class Row:
    """One comparison, with what it is about."""

    family: str
    method: str
    dtype: torch.dtype
    comparison: Comparison


def method_of(family: str, quantity: str) -> str:
    """The method, with its options, that a quantity of the authors is compared with."""
    name = quantity.partition(" ")[0].partition(".")[2]  # behind the target
    for theirs, (method, options) in PRESETS.get(family, {}).items():
        if name == theirs or name.startswith(f"{theirs}."):
            return method + "".join(f", {option}={value}" for option, value in options.items())
    return next((method for part, method in METHODS.items() if part in quantity), quantity)


def compare(folder: Path, families: Sequence[str]) -> Iterator[Row]:
    """Every comparison of every case, implementation and precision."""
    for family in families:
        function, implementations = FAMILIES[family]
        for path in find_cases(folder, family):
            for implementation in implementations:
                for dtype in (torch.float32, torch.float64):
                    case = read_case(path, dtype, implementation)
                    for comparison in function(case):
                        yield Row(family, method_of(family, comparison.name), dtype, comparison)


def table(rows: Sequence[Row]) -> str:
    """The worst errors of each family and method as Markdown."""
    lines = [
        "| family | method | quantities | float32 | float64 | above tolerance |",
        "|---|---|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.family, row.method), []).append(row)
    for (family, method), group in groups.items():
        single = [row.comparison for row in group if row.dtype == torch.float32]
        double = [row.comparison for row in group if row.dtype == torch.float64]
        failed = sum(not one.error <= one.tolerance for one in single)
        worst = " | ".join(f"{max(one.error for one in part):.1e}" for part in (single, double))
        lines.append(f"| {family} | {method} | {len(single)} | {worst} | {failed or ''} |")
    return "\n".join(lines)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of golden cases")
    parser.add_argument("--family", choices=sorted(FAMILIES), action="append")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Compares and prints."""
    given = arguments(words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = table(list(compare(given.folder, given.family or list(FAMILIES))))
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
