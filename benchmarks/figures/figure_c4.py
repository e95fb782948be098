"""Appendix C.4 of the WRA paper: captions explained word by word, and averaged.

python benchmarks/figures/figure_c4.py SCENES OUTPUT --count 2
"""

from on_scenes import arguments

import relmap
from relmap.data import DATA


def main() -> None:
    given = arguments(__doc__ or "", count=2)
    given.output.mkdir(parents=True, exist_ok=True)
    pictures = DATA.get("coco-captions").function(given.scenes, split=given.split)
    for mapper in "ab":
        model = relmap.load(f"demo:{mapper}-captions")
        for one in pictures[: given.count]:
            found = relmap.explain_caption(
                model, image=str(one.image), weighting="bleu-4", references=list(one.captions)
            )
            path = given.output / f"figure-c4-{mapper}-{one.name}.png"
            found.save(path)
            print(f"{mapper.upper()}: {found.caption} {path}")


if __name__ == "__main__":
    main()
