"""The order in which N2D2 builds cells: by depth, and within one as they stand in the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def in_order(inputs: Mapping[str, Collection[str]]) -> tuple[list[str], list[str]]:
    """Return the names of all cells in order, and those that wait for each other in a circle.

    Args:
        inputs: for each cell, in the order of the file, the cells that it reads.
    """
    place = {name: number for number, name in enumerate(inputs)}
    waiting_for = {name: len(set(parents)) for name, parents in inputs.items()}
    readers: dict[str, list[str]] = {}
    for name, parents in inputs.items():
        for parent in set(parents):
            readers.setdefault(parent, []).append(name)
    ordered: list[str] = []
    ready = [name for name, count in waiting_for.items() if count == 0]
    while ready:
        ordered += ready
        following = []
        for parent in ready:
            for name in readers.get(parent, ()):
                waiting_for[name] -= 1
                if waiting_for[name] == 0:
                    following.append(name)
        ready = sorted(following, key=place.__getitem__)
    return ordered, [name for name, count in waiting_for.items() if count]
