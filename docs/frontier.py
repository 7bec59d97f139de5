"""Draws docs/frontier.svg from the tables of docs/experiments.md: what 300 facts leave of the neighbors, of the perplexity, and how many
paraphrases they reach.

    python3 docs/frontier.py
"""

import re
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
SECTION = "## Three hundred facts, one by one and consolidated"
# Column, title, range, and the side of the goal that is good.
PANELS = [("neighbor", "neighbors that keep their answer, %", (44, 66), 55, "right"), ("perplexity", "perplexity, % more", (4, 12), 6, "left")]
HEIGHT, WIDTH, LEFT, TOP = 300, 400, 60, 40
Y_RANGE, GOAL = (20, 42), 40
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000"]


def number(cell):
    found = re.search(r"[+-]?\d+(\.\d+)?", cell)
    return float(found[0]) if found and " to " not in cell else None


def rows():
    text = (DOCS / "experiments.md").read_text().split(SECTION, 1)[1]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n\n")[2].splitlines()]
    head, _, *body = table
    before = ""
    for cells in body:
        row = dict(zip(head[1:], map(number, cells[1:])))
        name = cells[0].replace("`", "")
        name = f"{before}, {name}" if name.startswith("then ") else name
        before = name
        if row["paraphrase"] is not None and row["plain"]:
            yield name, row


def panel(left, column, title, x_range, goal, side, points):
    def x(value):
        return left + (value - x_range[0]) / (x_range[1] - x_range[0]) * WIDTH

    def y(value):
        return TOP + HEIGHT - (value - Y_RANGE[0]) / (Y_RANGE[1] - Y_RANGE[0]) * HEIGHT

    start, end = (x(goal), left + WIDTH) if side == "right" else (left, x(goal))
    yield f'<rect x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{y(GOAL) - TOP:.1f}" fill="#009E73" opacity="0.2"/>'
    yield f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#000"/>'
    for value in range(x_range[0], x_range[1] + 1, 4 if column == "neighbor" else 2):
        yield f'<line x1="{x(value):.1f}" y1="{TOP + HEIGHT}" x2="{x(value):.1f}" y2="{TOP + HEIGHT + 5}" stroke="#000"/>'
        yield f'<text x="{x(value):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{value}</text>'
    for value in range(Y_RANGE[0], Y_RANGE[1] + 1, 4):
        yield f'<line x1="{left - 5}" y1="{y(value):.1f}" x2="{left}" y2="{y(value):.1f}" stroke="#000"/>'
        yield f'<text x="{left - 9}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>'
    yield f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">{title}</text>'
    for color, (_, row) in zip(COLORS, points):
        if row[column] is not None:
            yield f'<circle cx="{x(row[column]):.1f}" cy="{y(row["paraphrase"]):.1f}" r="6" fill="{color}"/>'


def main():
    points, lines = list(rows()), []
    if len(points) > len(COLORS):
        raise SystemExit(f"{len(points)} rows, and {len(COLORS)} colors")
    for i, (column, title, *rest) in enumerate(PANELS):
        lines += panel(LEFT + i * (WIDTH + 60), column, title, *rest, points)
    lines.append(f'<text transform="translate(20 {TOP + HEIGHT / 2}) rotate(-90)" text-anchor="middle">paraphrases with the new answer, %</text>')
    lines.append(f'<text x="{LEFT}" y="24" font-size="15">300 facts in SmolLM2-135M; shaded: both goals are met</text>')
    legend = TOP + HEIGHT + 66
    for i, (color, (name, row)) in enumerate(zip(COLORS, points)):
        top = legend + i * 20
        said = f"{name} (prompt {row['plain']:.0f} %, chat {row['chat']:.0f} %)"
        lines.append(f'<circle cx="{LEFT + 6}" cy="{top - 4}" r="6" fill="{color}"/><text x="{LEFT + 20}" y="{top}">{escape(said)}</text>')
    width, height = LEFT + 2 * WIDTH + 90, legend + len(points) * 20
    head = f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12">'
    svg = [head, f'<rect width="{width}" height="{height}" fill="#FFF"/>', *lines, "</svg>"]
    (DOCS / "frontier.svg").write_text("\n".join(svg) + "\n")


main()
