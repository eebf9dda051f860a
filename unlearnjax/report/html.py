"""A run as one self-contained HTML page: no script, no network, figures embedded."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1400px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: left;
         white-space: nowrap; }
.numbers td + td, .numbers th + th { text-align: right; }
th { border-bottom: 2px solid #444; white-space: normal; vertical-align: bottom; }
/* Scrolling sideways, one still sees whose numbers these are. */
.numbers td:first-child, .numbers th:first-child { position: sticky; left: 0; background: #fff; }
.numbers tr.reference td { background: #f3f3f3; font-weight: 600; }
.definitions td { white-space: normal; }
figure { margin: 1.5rem 0; } img { max-width: 100%; }
figcaption { color: #444; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 13px; }
.warning { border-left: 4px solid #D55E00; padding: .3rem .8rem; background: #fff4ec; }
"""


def figure_png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def table(columns: Sequence[tuple[str, Sequence[str]]], css: str = "numbers") -> str:
    """An HTML table from (header, cells) columns; the row 'oracle' is set off."""
    head = "".join(f"<th>{html.escape(header)}</th>" for header, _ in columns)
    body = []
    for row in zip(*(cells for _, cells in columns), strict=True):
        mark = ' class="reference"' if row[0] == "oracle" else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>")
    return (
        f'<div class="wide"><table class="{css}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def page(
    title: str,
    lead: str,
    columns: Sequence[tuple[str, Sequence[str]]],
    figures: Mapping[str, bytes],
    definitions: Mapping[str, str],
    details: Mapping[str, str],
    warnings: Sequence[str] = (),
    tables: Mapping[str, Sequence[tuple[str, Sequence[str]]]] | None = None,
) -> str:
    """The page.

    Args:
      title, lead: heading and a sentence or two below it, plain text.
      columns: the main table, see `table`.
      figures: caption -> PNG, see `figure_png`.
      definitions: column -> what it means.
      details: heading -> preformatted text, folded away (configuration, versions).
      warnings: shown above the table.
      tables: heading -> further tables below it.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>"]
    parts += [f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings]
    parts.append(table(columns))
    parts += [
        f"<h2>{html.escape(name)}</h2>{table(cells)}" for name, cells in (tables or {}).items()
    ]
    for caption, figure in figures.items():
        data = base64.b64encode(figure).decode()
        text = html.escape(caption)
        parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    meaning = [("column", list(definitions)), ("definition", list(definitions.values()))]
    parts.append("<h2>What the columns mean</h2>" + table(meaning, "definitions"))
    for heading, text in details.items():
        parts.append(
            f"<details><summary>{html.escape(heading)}</summary>"
            f"<pre>{html.escape(text)}</pre></details>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def write(path: str | os.PathLike, content: str) -> None:
    """Writes the page whole or not at all."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
