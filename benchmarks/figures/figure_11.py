"""Figure 11 of the WRA paper: perturbation of images and texts with mapper B.

python benchmarks/figures/figure_11.py SCENES OUTPUT --count 300
"""

from on_scenes import IMAGE, RIVALS, TEXT, arguments, perturbation


def main() -> None:
    given = arguments(__doc__ or "", count=300)
    perturbation("demo:b-vqa", given, RIVALS, [IMAGE, TEXT], "figure-11")


if __name__ == "__main__":
    main()
