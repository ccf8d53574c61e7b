"""How many images of each class a run is trained, validated and tested on."""

from __future__ import annotations

from qatlab.data import ImageModule
from qatlab.data.transforms.transform import Part

UNEVEN = 2  # times as many images of one class as of another, from which both are named
NAMED = 5  # classes, at most


def image_counts(data: ImageModule, *parts: Part) -> dict[Part, dict[str, int]]:
    """Return the images of each class, by part, of parts that ``setup`` has read."""
    return {
        part: dict(zip(data.class_names, data.class_counts(part), strict=True)) for part in parts
    }


def described(counts: dict[Part, dict[str, int]]) -> list[str]:
    """Return lines about the images of training and validation."""
    sums = {part: sum(of_class.values()) for part, of_class in counts.items()}
    trained = counts["training"]
    parts = " and ".join(f"{count:,} {part}" for part, count in sums.items() if count)
    lines = [f"{parts} images of {len(trained):,} classes"]
    few, many = (choose(trained, key=lambda name: trained[name]) for choose in (min, max))
    if trained[many] > UNEVEN * trained[few]:
        lines[0] += f"; of '{few}' {trained[few]:,} are trained on, of '{many}' {trained[many]:,}"
    if missing := [name for name, count in trained.items() if count == 0]:
        names = ", ".join(f"'{name}'" for name in missing[:NAMED])
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        lines.append(f"Warning: no image is trained on of {names}{more}")
    return lines
