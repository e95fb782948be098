"""What recording costs: a plain forward, the same forward recorded, and a whole explanation.

    python benchmarks/overhead.py --model vit-base --rounds 7
    python benchmarks/overhead.py --model swin-tiny --profile
    python benchmarks/overhead.py --model vit-base --method transformer-attribution tokentm
    python benchmarks/overhead.py --model vit-base --method genatt:backward=libra

Weights are random and nothing is downloaded. All ways to run a network are timed in one process
and in turns, so that a machine that slows down slows all of them; the table gives the median time
of each way, the median over rounds of its ratio to the reference in the same round, and the ratio
of the fastest times, which other work on the machine disturbs least. With `--method` the methods
alone are timed beside the plain forward, each with its own backward, and compared with genatt (the
goal for transformer-attribution is 2.7 times genatt at most). `--clock cpu` counts the time that
the process was at work on all its threads, `wall` the time that passed.
"""

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import relmap
from relmap.evaluation import read_method
from relmap.trace import recording

METHOD = "genatt"
Way = Callable[[], object]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def explain_by(method: str) -> str:
    """The name of the way that explains with a method."""
    return f"explain ({method})"


COMPARISONS = (
    ("recorded", "forward with gradient"),
    ("recorded", "forward"),
    ("forward with gradient", "forward"),
    (explain_by(METHOD), "forward"),
    (explain_by(METHOD), "forward + full backward"),
)


def vit_base(batch: int | None) -> tuple[nn.Module, Tensor]:
    """ViT-B/16 of transformers at 224 px with random weights; 8 pictures."""
    from transformers import ViTConfig, ViTForImageClassification

    network = ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="sdpa"))
    return network, torch.randn(batch or 8, 3, 224, 224)


def swin_tiny(batch: int | None) -> tuple[nn.Module, Tensor]:
    """Swin-T of transformers at 224 px with random weights; 1 picture."""
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(SwinConfig(num_labels=1000)), torch.randn(
        batch or 1, 3, 224, 224
    )


MODELS: dict[str, Callable[[int | None], tuple[nn.Module, Tensor]]] = {
    "vit-base": vit_base,
    "swin-tiny": swin_tiny,
}


def explanations(network: nn.Module, pixels: Tensor, methods: Sequence[str]) -> dict[str, Way]:
    """Explaining with every method, by name."""

    def way(method: str) -> Way:
        named = read_method(method)
        options = {"method": named.name, **named.options}
        return lambda: relmap.explain(network, pixel_values=pixels, **options)

    return {explain_by(method): way(method) for method in methods}


def ways(network: nn.Module, pixels: Tensor) -> dict[str, Way]:
    """Everything that is timed, by name."""

    def forward() -> None:
        with torch.no_grad():
            network(pixel_values=pixels)

    def forward_with_gradient() -> None:
        network.requires_grad_(False)
        network(pixel_values=pixels.clone().requires_grad_())
        network.requires_grad_(True)

    def full_backward() -> None:
        logits = network(pixel_values=pixels).logits
        logits.amax(dim=-1).sum().backward()
        network.zero_grad(set_to_none=True)

    def recorded() -> None:
        with recording(network, {"pixel_values": pixels}):
            pass

    return {
        "forward": forward,
        "forward with gradient": forward_with_gradient,
        "recorded": recorded,
        "forward + full backward": full_backward,
        **explanations(network, pixels, [METHOD]),
    }


def time_in_turns(
    timed: Mapping[str, Way], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every way in every round; each round begins with another way."""
    for way in timed.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = clock()
            timed[name]()
            seconds[name].append(clock() - started)
    return seconds


def table(seconds: Mapping[str, Sequence[float]], comparisons: Sequence[tuple[str, str]]) -> str:
    """Median times, then ratios within rounds, as Markdown."""
    lines = ["| what | median ms | fastest ms |", "|---|---:|---:|"]
    for name, values in seconds.items():
        lines.append(
            f"| {name} | {1e3 * statistics.median(values):.1f} | {1e3 * min(values):.1f} |"
        )
    lines += ["", "| ratio | median | quartiles | fastest |", "|---|---:|---:|---:|"]
    for name, reference in comparisons:
        if name in seconds and reference in seconds:
            pairs = zip(seconds[name], seconds[reference], strict=True)
            found = sorted(one / other for one, other in pairs)
            low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
            best = min(seconds[name]) / min(seconds[reference])
            spread = f"{low:.2f} - {high:.2f}"
            lines.append(f"| {name} / {reference} | {middle:.2f} | {spread} | {best:.2f} |")
    return "\n".join(lines)


def profile(way: Way, reference: Way, count: int = 25) -> str:
    """The functions in which one way spends more time of its own than another, in ms a call."""
    spent = [_own_time(one) for one in (way, reference)]
    names = sorted(spent[0], key=lambda name: spent[1].get(name, (0, 0.0))[1] - spent[0][name][1])
    lines = ["| function | calls | ms | ms in the reference |", "|---|---:|---:|---:|"]
    for name in names[:count]:
        calls, seconds = spent[0][name]
        other = spent[1].get(name, (0, 0.0))[1]
        lines.append(f"| {name} | {calls:.0f} | {1e3 * seconds:.2f} | {1e3 * other:.2f} |")
    total = 1e3 * sum(seconds for _, seconds in spent[0].values())
    other = 1e3 * sum(seconds for _, seconds in spent[1].values())
    lines.append(f"| all together | | {total:.1f} | {other:.1f} |")
    return "\n".join(lines)


def _own_time(way: Way, repeats: int = 5) -> dict[str, tuple[float, float]]:
    """Calls and own seconds of every function, for one call of a way (a profiler slows Python)."""
    way()
    profiler = cProfile.Profile()
    for _ in range(repeats):
        profiler.runcall(way)
    found: dict[str, tuple[float, float]] = {}
    for (path, line, name), row in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        place = f"`{name}`" if path == "~" else f"`{Path(path).name}:{line} {name}`"
        calls, seconds = found.get(place, (0.0, 0.0))
        found[place] = (calls + row[1] / repeats, seconds + row[2] / repeats)
    return found


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), action="append")
    parser.add_argument("--method", nargs="+", metavar="METHOD", help="time these beside genatt")
    parser.add_argument("--clock", choices=sorted(CLOCKS), help="cpu for --method, else wall")
    parser.add_argument("--batch", type=int, help="pictures; by default 8 for ViT-B, 1 for Swin-T")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="where recording spends its time")
    return parser.parse_args(words)


def chosen(
    network: nn.Module, pixels: Tensor, methods: Sequence[str] | None
) -> tuple[dict[str, Way], Sequence[tuple[str, str]]]:
    """What is timed, and what of it is compared."""
    timed = ways(network, pixels)
    if not methods:
        return timed, COMPARISONS
    asked = explanations(network, pixels, [one for one in methods if one != METHOD])
    compared = [(name, explain_by(METHOD)) for name in asked]
    kept = {name: timed[name] for name in ("forward", explain_by(METHOD))} | asked
    return kept, [*compared, *((name, "forward") for name in (explain_by(METHOD), *asked))]


def main(words: Sequence[str] | None = None) -> None:
    """Times every way in turns, and prints the tables."""
    given = arguments(words)
    torch.set_num_threads(given.threads)
    for name in given.model or sorted(MODELS):
        torch.manual_seed(0)
        network, pixels = MODELS[name](given.batch)
        clock = given.clock or ("cpu" if given.method else "wall")
        print(f"{name}, batch {len(pixels)}, {given.threads} threads, {clock} time, "
              f"torch {torch.__version__}\n")  # fmt: skip
        timed, comparisons = chosen(network.eval(), pixels, given.method)
        print(table(time_in_turns(timed, given.rounds, CLOCKS[clock]), comparisons), flush=True)
        if given.profile:
            timed = ways(network, pixels)
            explained = timed[explain_by(METHOD)]
            for name, way, other in (
                ("recorded", timed["recorded"], timed["forward with gradient"]),
                ("explained", explained, timed["recorded"]),
            ):
                print(f"\nWhere the time goes: {name}\n\n{profile(way, other)}")
        print()


if __name__ == "__main__":
    main()
