"""Draws how often times came out below each quantile, from reports of `gcos predictor backtest`.

    python -m predictor.backtest.calibration_plot out.svg NAME=report.json NAME=report.json

Ours is a line, LightGBM without history a dashed one; the diagonal is a forecaster whose 10 %
quantile is above 10 % of all times, and so on.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_SIDE, _GAP, _LEFT, _TOP = 220, 34, 44, 30
_COMPARED = "LightGBM"


def drawing(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return an SVG document with one square for each named report."""
    width = _LEFT + len(reports) * (_SIDE + _GAP)
    height = _TOP + _SIDE + 58
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" font-family="sans-serif" font-size="11">'
    )
    parts = [
        head,
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for place, (name, report) in enumerate(reports.items()):
        parts += _square(_LEFT + place * (_SIDE + _GAP), name, report)
    middle = _TOP + _SIDE / 2
    parts.append(
        f'<text x="12" y="{middle}" transform="rotate(-90 12 {middle})"'
        ' text-anchor="middle">share of times below</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _square(left: int, name: str, report: Mapping[str, Any]) -> list[str]:
    middle, bottom = left + _SIDE / 2, _TOP + _SIDE
    parts = [
        f'<text x="{middle}" y="{_TOP - 10}" text-anchor="middle">{escape(name)}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#999"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{left + _SIDE}" y2="{_TOP}" stroke="#ccc"/>',
        f'<text x="{middle}" y="{bottom + 32}" text-anchor="middle">level of the quantile</text>',
    ]
    for tick in (0.1, 0.5, 0.9):
        x, y = left + tick * _SIDE, bottom - tick * _SIDE
        parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{tick}</text>')
        parts.append(f'<text x="{left - 4}" y="{y + 4}" text-anchor="end">{tick}</text>')
    for one in report["contestants"]:
        is_ours = one["difference"] is None
        if not is_ours and one["name"] != _COMPARED:
            continue
        points = " ".join(
            f"{left + level * _SIDE:.1f},{bottom - share * _SIDE:.1f}"
            for level, share in zip(report["levels"], one["scores"]["frequencies"], strict=True)
        )
        stroke = 'stroke="#0a6"' if is_ours else 'stroke="#c40" stroke-dasharray="4 3"'
        parts.append(f'<polyline points="{points}" fill="none" stroke-width="2" {stroke}/>')
        y = _TOP + (16 if is_ours else 32)
        fill = "#0a6" if is_ours else "#c40"
        parts.append(f'<text x="{left + 8}" y="{y}" fill="{fill}">{escape(one["name"])}</text>')
    return parts


def main(arguments: Sequence[str]) -> int:
    """Write the drawing; return the exit code."""
    if len(arguments) < 2 or any("=" not in word for word in arguments[1:]):
        sys.stderr.write(__doc__ or "")
        return 2
    named = (word.partition("=") for word in arguments[1:])
    reports = {name: json.loads(Path(path).read_text()) for name, _, path in named}
    Path(arguments[0]).write_text(drawing(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
