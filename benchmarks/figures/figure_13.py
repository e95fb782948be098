"""Figure 13 of the WRA paper: the interaction of patches and words, and how homogeneous it is.

    python benchmarks/figures/figure_13.py SCENES OUTPUT --count 50

The paper calls the maps "very homogeneous" and gives no number. Here homogeneity is the share of
the map's squared length that its best map of rank one keeps, σ_1² / Σ σ_i², after each word's row
is divided by its sum: 1 means that all words act on the same patches in the same proportions.
"""

import torch
from on_scenes import arguments, questions

import relmap
from relmap.data import DATA

KINDS = ["colour", "left-or-right"]


def homogeneity(table: torch.Tensor) -> float:
    """σ_1² / Σ σ_i² of a map whose rows are divided by their sums."""
    rows = table.double().clamp(min=0)
    rows = rows[rows.sum(1) > 0]
    squared = torch.linalg.svdvals(rows / rows.sum(1, keepdim=True)) ** 2
    return (squared[0] / squared.sum()).item()


def main() -> None:
    given = arguments(__doc__ or "", count=50)
    given.output.mkdir(parents=True, exist_ok=True)
    samples = DATA.get("scenes").function(given.scenes, split=given.split)[: given.count]
    for mapper in "ab":
        model = relmap.load(f"demo:{mapper}-vqa")
        values, noise = [], []
        for one in samples:
            found = relmap.interaction(
                model, image=str(one.question.image), text=one.question.text,
                between=["text", "image"],
            )  # fmt: skip
            table = found.maps[0]
            values.append(homogeneity(table))
            noise.append(homogeneity(torch.rand(table.shape)))
        mean, random = (sum(each) / len(each) for each in (values, noise))
        print(f"mapper {mapper.upper()}: homogeneity {mean:.3f} (random maps {random:.3f})")
        for one in questions(given, KINDS):
            path = given.output / f"figure-13-{mapper}-{one.question.kind}.png"
            inputs = {"image": str(one.question.image), "text": one.question.text}
            relmap.interaction(model, **inputs).save(path)
            print(path)


if __name__ == "__main__":
    main()
