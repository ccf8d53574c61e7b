"""A picture of the memory of a program over time."""

from __future__ import annotations

from xml.sax.saxutils import escape

from qatlab.deploy.c.source import CProgram

WIDTH, HEIGHT, LEFT, TOP, BELOW = 900, 360, 70, 34, 150
COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")
SMALLEST = 12  # height of a part that has its name in it


def drawn(program: CProgram) -> str:
    """Return an SVG: operations to the right, bytes of the arena upwards, a box for each part.

    Args:
        program: whose memory is drawn.
    """
    parts, operations = program.memory, [row.name for row in program.layers]
    size = max((part.start + part.size for part in parts), default=0)
    steps = [name for name in operations if any(name in (p.first, p.last) for p in parts)]
    at = {name: i for i, name in enumerate(steps)}
    wide = (WIDTH - LEFT - 20) / max(len(steps), 1)
    high = HEIGHT / max(size, 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{TOP + HEIGHT + BELOW}" '
        f'viewBox="0 0 {WIDTH} {TOP + HEIGHT + BELOW}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Memory over time: {size:,} bytes</text>',
    ]
    for quarter in range(5):
        y = TOP + HEIGHT * (1 - quarter / 4)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{size * quarter // 4:,}</text>'
        )
    for i, part in enumerate(sorted(parts, key=lambda own: at[own.first])):
        x, y = LEFT + at[part.first] * wide, TOP + HEIGHT - (part.start + part.size) * high
        width, height = (at[part.last] - at[part.first] + 1) * wide, part.size * high
        text = escape(f"{part.name}: {part.size:,} bytes")
        lines.append(
            f'<g><title>{text}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill="{COLORS[i % len(COLORS)]}" fill-opacity="0.75" '
            f'stroke="white"/>'
        )
        if height >= SMALLEST:
            room = int(width / 6)
            shown = escape(part.name if len(part.name) <= room else part.name[: max(room - 1, 0)])
            lines.append(f'<text x="{x + 3:.1f}" y="{y + height / 2 + 4:.1f}">{shown}</text>')
        lines.append("</g>")
    for name, i in at.items():
        x, y = LEFT + (i + 0.5) * wide, TOP + HEIGHT + 10
        turned = f'transform="rotate(-60 {x:.1f} {y})"'
        lines.append(f'<text x="{x:.1f}" y="{y}" text-anchor="end" {turned}>{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
