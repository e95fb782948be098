"""Figure 1 of the WRA paper: one question, relevance accumulated equally and weighted.

    python benchmarks/figures/figure_01.py SCENES OUTPUT

Equal weights carry half of the relevance through every residual; WRA weighs the two branches by
positive Input x Gradient. Also prints how far the two maps are apart, over all questions asked.
"""

import torch
from on_scenes import arguments, questions

import relmap
from relmap.drawing.comparison_sheet import sheet


def main() -> None:
    given = arguments(__doc__ or "", count=1)
    given.output.mkdir(parents=True, exist_ok=True)
    model = relmap.load("demo:a-vqa")
    for one in questions(given, ["relation-open", "left-or-right", "count"]):
        inputs = {"image": str(one.question.image), "text": one.question.text}
        found = {
            "wra:weights=equal": relmap.explain(model, method="wra", weights="equal", **inputs),
            "wra": relmap.explain(model, method="wra", **inputs),
        }
        path = given.output / f"figure-01-{one.question.kind}.png"
        sheet(found, path)
        equal, weighted = (each.image.scores.flatten() for each in found.values())
        likeness = torch.cosine_similarity(equal, weighted, dim=0).item()
        print(f"{one.question.text} cosine of equal and weighted patches: {likeness:.3f}; {path}")


if __name__ == "__main__":
    main()
