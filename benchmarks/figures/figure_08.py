"""Figure 8 of the WRA paper: perturbation of images and texts with mapper A.

python benchmarks/figures/figure_08.py SCENES OUTPUT --count 300
"""

from on_scenes import IMAGE, RIVALS, TEXT, arguments, perturbation


def main() -> None:
    given = arguments(__doc__ or "", count=300)
    perturbation("demo:a-vqa", given, RIVALS, [IMAGE, TEXT], "figure-08")


if __name__ == "__main__":
    main()
