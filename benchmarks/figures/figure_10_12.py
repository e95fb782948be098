"""Figures 10 and 12 of the WRA paper: why mappers A and B gave these answers.

python benchmarks/figures/figure_10_12.py SCENES OUTPUT
"""

from on_scenes import arguments, questions

import relmap

KINDS = ["colour", "count", "left-or-right", "relation-open"]


def main() -> None:
    given = arguments(__doc__ or "", count=4)
    given.output.mkdir(parents=True, exist_ok=True)
    asked = questions(given, KINDS)
    for mapper in "ab":
        model = relmap.load(f"demo:{mapper}-vqa")
        found = relmap.explain(
            model, method="wra", image=[str(one.question.image) for one in asked],
            text=[one.question.text for one in asked],
        )  # fmt: skip
        path = given.output / f"figure-10-12-{mapper}.png"
        found.save(path)
        for one, said in zip(asked, found.prediction, strict=True):
            print(f"{mapper.upper()}: {one.question.text} {said}")
        print(path)


if __name__ == "__main__":
    main()
