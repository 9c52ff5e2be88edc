"""Draws the plots of a report as inline SVG that follows the page's colours.

Figures are as wide as a phone, so that their text stays readable there. Colours are written as
stand-ins and replaced by CSS variables of the page, which has one set for light and one for dark.
Nothing in an image is loaded from anywhere.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.evaluation import Evaluation
from testbed.report.findings import Saving
from testbed.report.fronts import SWEPT, Front, Sweep
from testbed.report.sources import Placements
from testbed.statistics import Estimate

#: Inches; 72 of the points of an SVG are one.
WIDTH_IN: Final = 5.2
FONT_PT: Final = 10.5

#: Stand-ins, and the CSS values that take their place.
INK: Final = "#010203"
FAINT: Final = "#040506"
SERIES: Final = tuple(f"#0a0b{index:02x}" for index in range(8))
_CSS: Final = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    **{color: f"var(--s{index})" for index, color in enumerate(SERIES)},
}
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: Final = ("-", "--", "-.", ":")

#: Matplotlib types the keys as some 300 literals, which no name of a dictionary carries.
_RC: Final[Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT_PT,
    "axes.labelsize": FONT_PT,
    "axes.titlesize": FONT_PT,
    "xtick.labelsize": FONT_PT - 1,
    "ytick.labelsize": FONT_PT - 1,
    "legend.fontsize": FONT_PT - 1,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.hashsalt": "gcos",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn figure.

    Attributes:
        svg: Inline SVG.
        caption: What it shows: for everybody.
        alternative: What there is to see in it: for those who do not see it.
    """

    svg: str
    caption: str
    alternative: str


@contextmanager
def _drawing(height_in: float, rows: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots(rows, 1, squeeze=False, sharex=rows > 1)
        yield figure, [each for row in axes for each in row]


def _svg(figure: Figure, name: str, alternative: str) -> str:
    """Return a figure as inline SVG with ids of its own."""
    with mpl.rc_context({**_RC, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A style inside an SVG holds for the whole page, which has these two rules itself.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    # Ids that count up are the same in every figure of a page.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href=")#', rf"\1#{name}-", text)
    text = text.replace("url(#", f"url(#{name}-")
    for color, css in _CSS.items():
        text = text.replace(color, css)
    head, _, rest = text.partition(">")
    head = re.sub(r' (?:width|height)="[^"]*pt"', "", head)
    label = escape(alternative, quote=True)
    return f'{head} role="img" aria-label="{label}">{rest}'.strip()


def savings_plot(name: str, rows: Sequence[Saving], caption: str) -> Plot:
    """Draw savings against each baseline, with their intervals."""
    metrics = list(dict.fromkeys(row.metric.name for row in rows))
    baselines = list(dict.fromkeys(row.baseline for row in rows))
    with _drawing(0.9 + 0.55 * len(baselines)) as (figure, (axes,)):
        for index, metric in enumerate(metrics):
            offset = 0.24 * (index - (len(metrics) - 1) / 2)
            for place, baseline in enumerate(baselines):
                row = next(r for r in rows if (r.baseline, r.metric.name) == (baseline, metric))
                if row.percent is None:
                    continue
                _whisker(axes, row.percent, place + offset, index, metric if place == 0 else "")
        axes.axvline(0.0, color=INK, linewidth=1.0)
        axes.set_yticks(range(len(baselines)), labels=baselines)
        axes.set_ylim(len(baselines) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("saving, % of the baseline (right of 0 is better)")
        figure.legend(loc="outside upper center", ncols=4, columnspacing=0.9, handlelength=1.6)
        words = [
            f"{row.metric.name} against {row.baseline} {row.percent.mean:+.1f} %"
            for row in rows
            if row.percent is not None
        ]
        alternative = f"Savings with intervals: {'; '.join(words)}."
        return Plot(_svg(figure, name, alternative), caption, alternative)


def _whisker(axes: Axes, found: Estimate, place: float, index: int, label: str) -> None:
    axes.plot(
        [found.mean],
        [place],
        marker=_MARKERS[index],
        linestyle="none",
        color=SERIES[index],
        label=label or None,
    )
    if found.interval is not None:
        ends = [found.interval.low, found.interval.high]
        axes.plot(ends, [place, place], color=SERIES[index], linewidth=1.8)


def stack_plot(
    name: str,
    policies: Sequence[str],
    parts: Sequence[tuple[str, Sequence[float]]],
    *,
    unit: str,
    caption: str,
) -> Plot:
    """Draw what something is made of, a bar for each policy.

    Args:
        name: Of the figure; unique on the page.
        policies: A bar each.
        parts: Names, and a value for each policy.
        unit: Of the values.
        caption: What is shown.
    """
    with _drawing(1.2 + 0.34 * len(policies)) as (figure, (axes,)):
        left = np.zeros(len(policies))
        for index, (part, values) in enumerate(parts):
            axes.barh(
                range(len(policies)),
                values,
                left=left,
                height=0.66,
                color=SERIES[index],
                edgecolor=INK,
                linewidth=0.4,
                hatch=("", "///", "...", "xxx", "\\\\\\")[index % 5],
                label=part,
            )
            left += np.asarray(values)
        axes.set_yticks(range(len(policies)), labels=policies)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        figure.legend(
            loc="outside upper center", ncols=len(parts), columnspacing=0.9, handlelength=1.2
        )
        words = [
            f"{policy} " + ", ".join(f"{part} {values[index]:.4g}" for part, values in parts)
            for index, policy in enumerate(policies)
        ]
        alternative = f"Bars in {unit}: {'; '.join(words)}."
        return Plot(_svg(figure, name, alternative), caption, alternative)


def front_plot(name: str, found: Front, caption: str) -> Plot:
    """Draw cost over carbon for all carbon prices, points on the front filled."""
    policies = list(dict.fromkeys(each.policy for each in found.points))
    with _drawing(4.2) as (figure, (axes,)):
        for index, policy in enumerate(policies):
            points = [each for each in found.points if each.policy == policy]
            color = SERIES[index % len(SERIES)]
            axes.plot(
                [each.carbon_kg for each in points],
                [each.cost_usd for each in points],
                color=color,
                linewidth=1.2,
                linestyle=_DASHES[index % len(_DASHES)],
                label=policy,
                marker=_MARKERS[index % len(_MARKERS)],
                markerfacecolor="none",
                markersize=6,
            )
            on = [each for each in points if each.is_on_front]
            axes.plot(
                [each.carbon_kg for each in on],
                [each.cost_usd for each in on],
                color=color,
                linestyle="none",
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=6,
            )
        axes.set_xlabel("carbon, kg")
        axes.set_ylabel("cost, $")
        figure.legend(loc="outside upper center", ncols=4, columnspacing=0.9, handlelength=1.6)
        words = [
            f"{each.policy} at {each.carbon_price_usd_per_kg:g} $/kg: {each.cost_usd:.4g} $, "
            f"{each.carbon_kg:.4g} kg{', on the front' if each.is_on_front else ''}"
            for each in found.points
        ]
        alternative = f"Cost over carbon: {'; '.join(words)}."
        return Plot(_svg(figure, name, alternative), caption, alternative)


def sweep_plot(name: str, sweep: Sweep, caption: str) -> Plot:
    """Draw J of each policy over the values of a parameter, with intervals."""
    words_of, unit = SWEPT[sweep.parameter]
    values = [point.value for point in sweep.points]
    with _drawing(3.4) as (figure, (axes,)):
        spoken = []
        for index, policy in enumerate(sweep.policies):
            found = sweep.joint_usd(policy)
            means = [each.mean for each in found]
            color = SERIES[index % len(SERIES)]
            axes.plot(
                values,
                means,
                color=color,
                marker=_MARKERS[index % len(_MARKERS)],
                linestyle=_DASHES[index % len(_DASHES)],
                label=policy,
                markersize=5,
            )
            bounds = [each.interval for each in found]
            for value, interval in zip(values, bounds, strict=True):
                if interval is not None:
                    ends = [interval.low, interval.high]
                    axes.plot([value, value], ends, color=color, linewidth=1.0)
            pairs = zip(values, means, strict=True)
            spoken.append(f"{policy} " + ", ".join(f"{mean:.4g} $ at {v:g}" for v, mean in pairs))
        axes.set_xlabel(f"{words_of}, {unit}")
        axes.set_ylabel("J, $")
        axes.set_ylim(bottom=0.0)
        figure.legend(loc="outside upper center", ncols=4, columnspacing=0.9, handlelength=1.6)
        alternative = f"J over {words_of}: {'; '.join(spoken)}."
        return Plot(_svg(figure, name, alternative), caption, alternative)


def placements_plot(name: str, found: Placements, caption: str) -> Plot:
    """Draw the busy GPUs of each site over its curves of carbon and price."""
    hours = np.arange(len(found.sites[0].busy_count))
    top_carbon = max(float(site.carbon_gco2_per_kwh.max()) for site in found.sites) or 1.0
    with _drawing(0.9 + 1.05 * len(found.sites), rows=len(found.sites)) as (figure, rows):
        spoken = []
        for axes, site in zip(rows, found.sites, strict=True):
            share = 100.0 * site.busy_count / site.gpu_count
            axes.fill_between(hours, share, step="post", color=SERIES[0], alpha=0.45, linewidth=0)
            carbon = 100.0 * site.carbon_gco2_per_kwh / top_carbon
            axes.plot(hours, carbon, color=SERIES[1], linewidth=1.2, drawstyle="steps-post")
            axes.plot(
                hours,
                _scaled(site.price_usd_per_kwh),
                color=SERIES[2],
                linewidth=1.0,
                linestyle="--",
                drawstyle="steps-post",
            )
            axes.set_ylim(0, 105)
            axes.set_xlim(0, len(hours))
            axes.set_yticks([0, 50, 100])
            axes.set_ylabel(site.site_id, rotation=0, ha="right", va="center")
            axes.set_xticks(range(0, len(hours) + 1, 24))
            spoken.append(
                f"{site.site_id} {share.mean():.0f} % busy at "
                f"{site.carbon_gco2_per_kwh.mean():.0f} g/kWh"
            )
        rows[-1].set_xlabel("hours of the measured window")
        names = (
            "GPUs busy, %",
            f"carbon, % of {top_carbon:.0f} g/kWh",
            "price, % of the site's highest",
        )
        handles = [rows[0].collections[0], *rows[0].lines[:2]]
        figure.legend(handles, names, loc="outside upper center", ncols=1)
        alternative = f"Mean use and intensity by site: {'; '.join(spoken)}."
        return Plot(_svg(figure, name, alternative), caption, alternative)


def _scaled(price: "np.ndarray[Any, np.dtype[np.float64]]") -> Any:
    """Return a price in per cent of its highest value; what is negative lies on the axis."""
    top = float(price.max())
    return np.clip(100.0 * price / top, 0.0, None) if top > 0 else np.zeros(len(price))


def rate_plot(
    name: str,
    found: Evaluation,
    metrics: Sequence[tuple[str, Callable[[str], Estimate | None]]],
    *,
    unit: str,
    caption: str,
) -> Plot:
    """Draw some means with the standard deviation over runs, a group for each policy.

    Args:
        name: Of the figure; unique on the page.
        found: The evaluation.
        metrics: Names, and what gives the estimate of a policy.
        unit: Of the values.
        caption: What is shown.
    """
    policies = [each.policy for each in found.policies]
    with _drawing(1.2 + 0.42 * len(policies)) as (figure, (axes,)):
        spoken = []
        for index, (metric, estimate_of) in enumerate(metrics):
            height = 0.8 / len(metrics)
            places = [
                place + height * (index - (len(metrics) - 1) / 2) for place in range(len(policies))
            ]
            each = [estimate_of(policy) for policy in policies]
            axes.barh(
                places,
                [0.0 if e is None else e.mean for e in each],
                height=0.9 * height,
                xerr=[0.0 if e is None else e.std for e in each],
                color=SERIES[index],
                ecolor=INK,
                error_kw={"linewidth": 0.9},
                hatch=("", "///")[index % 2],
                label=metric,
            )
            known = [(p, e) for p, e in zip(policies, each, strict=True) if e is not None]
            spoken += [f"{metric} of {p} {e.mean:.3g}" for p, e in known]
        axes.set_yticks(range(len(policies)), labels=policies)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0.0)
        axes.set_xlabel(unit)
        figure.legend(loc="outside upper center", ncols=4, columnspacing=0.9, handlelength=1.6)
        alternative = f"Bars in {unit}: {'; '.join(spoken)}."
        return Plot(_svg(figure, name, alternative), caption, alternative)
