"""HTML in pieces: every text is escaped, and a number keeps its whole value beside what is shown.

A cell of a table is text or a `Number`; the latter is shown with three digits or so and carries its
value in `data-value`, so that a program reads from the page what the evaluation said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from gcos.cli.quantities import duration, significant
from testbed.report.plots import Plot
from testbed.statistics import Estimate

#: What stands where nothing was computed.
MISSING: Final = "not computed"


@dataclass(frozen=True, slots=True)
class Number:
    """A number as people read it, and as it is.

    Attributes:
        value: As it is.
        text: As people read it.
        note: Small print after it, such as its spread.
        is_bad: It speaks against the subject.
    """

    value: float
    text: str
    note: str = ""
    is_bad: bool = False


#: Headings of rows that are not longer than this stay on one line.
_SHORT: Final = 20

Cell = str | Number | None


def amount(value: float) -> Number:
    """Return a number with three digits."""
    return Number(value, significant(value))


def length(value_s: float) -> Number:
    """Return a length of time."""
    return Number(value_s, duration(value_s))


def spread_amount(found: Estimate | None) -> Cell:
    """Return a mean with the standard deviation over runs."""
    if found is None:
        return None
    note = f"± {significant(found.std)}" if found.count > 1 else "one run"
    return Number(found.mean, significant(found.mean), note)


def percent(found: Estimate | None, *, is_bad: bool = False) -> Cell:
    """Return a percentage with its interval, or with what stands for it."""
    if found is None:
        return None
    if found.interval is not None:
        note = f"{_signed(found.interval.low)} to {_signed(found.interval.high)}"
    elif found.count > 1:
        note = f"± {found.std:.1f}, one week"
    else:
        note = "one run"
    return Number(found.mean, f"{_signed(found.mean)} %", note, is_bad=is_bad)


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text


def paragraph(text: str, *, style: str = "") -> str:
    """Return a paragraph."""
    kind = f' class="{style}"' if style else ""
    return f"<p{kind}>{escape(text)}</p>"


def items(texts: Sequence[str]) -> str:
    """Return a list."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names with what they are."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{rows}</dl>"


def code(text: str) -> str:
    """Return something to type, a command a line; words are not broken where there is room."""
    lines = (
        " ".join(f"<span>{escape(word)}</span>" for word in line.split(" "))
        for line in text.splitlines()
    )
    blocks = "".join(f'<span class="line">{line}\n</span>' for line in lines)
    return f"<pre><code>{blocks}</code></pre>"


def table(name: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table that scrolls sideways where it finds no room.

    Args:
        name: Its id; unique on the page.
        caption: What it holds, and of what its percentages are.
        columns: Headings.
        rows: Cells, as many as columns; the first one names the row.
    """
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f"<tr>{_row_heading(str(row[0]))}{''.join(map(_cell, row[1:]))}</tr>" for row in rows
    )
    label = escape(caption, quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table id="{name}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row_heading(text: str) -> str:
    kind = ' class="short"' if len(text) <= _SHORT else ""
    return f'<th scope="row"{kind}>{escape(text)}</th>'


def _cell(cell: Cell) -> str:
    if cell is None:
        return f'<td class="missing">{MISSING}</td>'
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    kind = "number bad" if cell.is_bad else "number"
    note = f" <small>{escape(cell.note)}</small>" if cell.note else ""
    return f'<td class="{kind}" data-value="{cell.value!r}">{escape(cell.text)}{note}</td>'


def figures(plots: Sequence[Plot]) -> str:
    """Return figures side by side where there is room."""
    made = "".join(
        f"<figure>{plot.svg}<figcaption>{escape(plot.caption)}</figcaption></figure>"
        for plot in plots
    )
    return f'<div class="plots">{made}</div>'


def section(name: str, title: str, *parts: str) -> str:
    """Return a section with its heading."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(title)}</h2>{"".join(parts)}</section>'
    )


def page(title: str, contents: Sequence[tuple[str, str]], body: str) -> str:
    """Return the whole document; it loads nothing.

    Args:
        title: Of the page.
        contents: Sections by id and heading.
        body: Markup.
    """
    links = "".join(f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text in contents)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f'<body><header><h1>{escape(title)}</h1><nav aria-label="Contents"><ol>{links}</ol></nav>'
        f"</header><main>{body}</main></body></html>\n"
    )


#: Both sets keep a contrast of at least 4.5 to 1 for text and 3 to 1 for what is drawn.
_STYLE: Final = """
:root{--ink:#1b1f24;--soft:#57606a;--faint:#d8dde3;--paper:#ffffff;--shade:#f4f6f8;--bad:#b3261e;
--s0:#0b6fb8;--s1:#c2410c;--s2:#15803d;--s3:#8b3fb5;--s4:#a16207;--s5:#0e7490;--s6:#be185d;
--s7:#4d5562}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#a3adb8;--faint:#39424d;
--paper:#14181d;--shade:#1d232a;--bad:#ff8a80;--s0:#5cb3f0;--s1:#ff9d5c;--s2:#62d08a;--s3:#d29bf0;
--s4:#e0bd4e;--s5:#57cfe0;--s6:#ff8fbb;--s7:#aab4c0}}
*{box-sizing:border-box}
body{overflow-wrap:break-word;margin:0 auto;max-width:1240px;padding:0 16px 48px;
background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{overflow-wrap:anywhere;font-size:1.7rem;line-height:1.2;margin:28px 0 8px}
h2{font-size:1.25rem;margin:44px 0 8px;padding-top:10px;border-top:1px solid var(--faint)}
p,ul,dl{max-width:76ch}
nav ol{display:flex;flex-wrap:wrap;gap:2px 18px;margin:8px 0;padding:0;list-style:none}
a{color:var(--s0)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:12px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--shade);padding:10px 12px;border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.86rem}
pre span{display:inline-block;max-width:100%}
pre .line{display:block;padding-left:2ch}pre .line+.line{margin-top:8px}
pre .line>span:first-child{margin-left:-2ch}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:separate;border-spacing:0;min-width:min(100%,620px);font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:6px;max-width:90ch}
th,td{padding:5px 9px;border-top:1px solid var(--faint);text-align:left;vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600;position:sticky;left:0;background:var(--paper);max-width:34ch;
overflow-wrap:break-word}
td,th.short{white-space:nowrap}tbody th.short{max-width:none}
td small{color:var(--soft);font-weight:400}
td.bad{color:var(--bad);font-weight:600}
td.missing{color:var(--soft);font-style:italic}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),560px));gap:24px}
figure{margin:0;min-width:0}figure svg{width:100%;height:auto;
display:block;stroke-linejoin:round;stroke-linecap:butt}
figcaption{color:var(--soft);font-size:.88rem}
@media (max-width:600px){body{font-size:15px}tbody th{max-width:40vw}
th,td{padding:5px 6px}td small{display:block}
dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:8px}h1{font-size:1.4rem}
caption{position:sticky;left:0;max-width:calc(100vw - 32px);display:table-caption}}
@media print{.scroll{overflow:visible}}
""".replace("\n", "")
