"""Figure 9 of the WRA paper: which weights make words explain the whole caption? Mapper A.

    python benchmarks/figures/figure_09.py SCENES OUTPUT --count 40

The patches are hidden in the order of R^S = Σ λ_i R^{w_i} (eq. 20) with λ from BLEU-4 (eq. 21)
and with equal λ; what the model then writes is scored by RefCLIPScore against the
original picture and its captions.
"""

from on_scenes import arguments

import relmap
from relmap.evaluation import Settings, Source


def main() -> None:
    given = arguments(__doc__ or "", count=40)
    metrics = [f"ref-clip-score:weighting={name}" for name in ("equal", "bleu-4")]
    found = relmap.evaluate(
        "demo:a-captions",
        Source(given.scenes, "coco-captions", {"split": given.split}),
        ["wra", "genatt", "random"],
        metrics,
        output=given.output / "figure-09",
        settings=Settings(batch_size=10, limit=given.count),
    )
    print(f"## figure-09: {given.count} pictures of {given.split}\n\n{found}")


if __name__ == "__main__":
    main()
