"""Localisation metrics in loops over lists, as their docstrings say them."""

import math


def upsampled(grid: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear interpolation between patch centres, pixel by pixel."""
    rows, columns = len(grid), len(grid[0])

    def at(pixel: int, pixels: int, patches: int) -> tuple[int, int, float]:
        place = (pixel + 0.5) * patches / pixels - 0.5
        place = min(max(place, 0.0), patches - 1.0)
        low = min(int(place), patches - 1)
        return low, min(low + 1, patches - 1), place - low

    image = []
    for y in range(height):
        top, bottom, down = at(y, height, rows)
        line = []
        for x in range(width):
            left, right, across = at(x, width, columns)
            upper = grid[top][left] * (1 - across) + grid[top][right] * across
            lower = grid[bottom][left] * (1 - across) + grid[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        image.append(line)
    return image


def pointing_game_by_pixel(image, mask, tolerance: float) -> float:
    """For a map that has already the size of the mask."""
    best, peak = -math.inf, (0, 0)
    for y, line in enumerate(image):
        for x, value in enumerate(line):
            if value > best:
                best, peak = value, (y, x)
    for y, line in enumerate(mask):
        for x, inside in enumerate(line):
            if inside and math.dist((y, x), peak) <= tolerance:
                return 1.0
    return 0.0


def energy_by_pixel(grid, mask) -> float:
    clamped = [[max(value, 0.0) for value in line] for line in grid]
    image = upsampled(clamped, len(mask), len(mask[0]))
    inside = total = 0.0
    for line, truth in zip(image, mask, strict=True):
        for value, is_inside in zip(line, truth, strict=True):
            total += value
            inside += value if is_inside else 0.0
    return inside / total if total > 0 else 0.0


def pointing_game_by_patch(grid, mask) -> float:
    """Whether the pixel that holds the centre of the first of the highest patches is inside."""
    best, peak = -math.inf, (0, 0)
    for row, line in enumerate(grid):
        for column, value in enumerate(line):
            if value > best:
                best, peak = value, (row, column)
    y = math.floor((peak[0] + 0.5) * len(mask) / len(grid))
    x = math.floor((peak[1] + 0.5) * len(mask[0]) / len(grid[0]))
    return float(mask[y][x])


def touched(spans, marked) -> list[bool]:
    """Which spans share a character with one of the marked ones."""
    wanted = {place for start, end in marked for place in range(start, end)}
    return [bool(wanted & set(range(start, end))) for start, end in spans]


def recalled(scores, content, wanted) -> float:
    """Of the n wanted content tokens, the share among the n highest content tokens."""
    tokens = [at for at in range(len(scores)) if content[at]]
    number = sum(wanted[at] for at in tokens)
    best = sorted(tokens, key=lambda at: (-scores[at], at))[:number]
    return sum(wanted[at] for at in best) / number
