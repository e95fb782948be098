"""Figure 7 of the WRA paper: does weighting help? Text perturbation with mapper A.

python benchmarks/figures/figure_07.py SCENES OUTPUT --count 300
"""

from on_scenes import TEXT, arguments, perturbation


def main() -> None:
    given = arguments(__doc__ or "", count=300)
    perturbation("demo:a-vqa", given, ["wra", "wra:weights=equal", "random"], [TEXT], "figure-07")


if __name__ == "__main__":
    main()
