"""A self-contained HTML page from sections of text, tables and figures. No script, no network, everything escaped."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1em 2em;color:#1d2733}
h1{font-size:1.7em}h2{border-bottom:2px solid #c9d6e2;padding-top:1.2em}h3{margin-bottom:.2em}
nav{background:#f1f5f9;padding:.6em 1em;border-radius:6px}nav a{margin-right:1em;white-space:nowrap}
figure{margin:.6em 0}figcaption{color:#4a5a6a;max-width:70em}img{max-width:100%;height:auto}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.2em .8em;border-bottom:1px solid #dde5ec;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums}.good{color:#137333}.bad{color:#b3261e;font-weight:600}
.alarm{background:#fdecea;border-left:6px solid #b3261e;padding:.6em 1em;margin:.8em 0;font-weight:600}
.note{background:#fff7e0;border-left:4px solid #e0a800;padding:.4em .8em;margin:.6em 0}
"""


def _text(value) -> str:
    return html.escape(str(value), quote=True)


@dataclass
class Section:
    """One chapter of the page; ``add_*`` append to it in reading order."""

    title: str
    intro: str = ""
    parts: list[str] = field(default_factory=list)

    def add_heading(self, text: str) -> None:
        self.parts.append(f"<h3>{_text(text)}</h3>")

    def add_text(self, text: str) -> None:
        self.parts.append(f"<p>{_text(text)}</p>")

    def add_note(self, text: str) -> None:
        """A remark the reader must not miss."""
        self.parts.append(f'<p class="note">{_text(text)}</p>')

    def add_alarm(self, text: str) -> None:
        """A result that must not be believed."""
        self.parts.append(f'<p class="alarm">{_text(text)}</p>')

    def add_table(self, header: list[str], rows: list[list]) -> None:
        """Numbers are right-aligned; a cell ("good"|"bad", text) is coloured."""
        head = "".join(f"<th>{_text(h)}</th>" for h in header)
        body = "".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>" for row in rows)
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def add_figure(self, figure, caption: str) -> None:
        """A matplotlib Figure as an embedded PNG."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=88, bbox_inches="tight", metadata={"Software": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        alt = _text(caption)
        self.parts.append(
            f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{alt}</figcaption></figure>'
        )


def _cell(value) -> str:
    if isinstance(value, tuple):
        return f'<td class="{value[0]}">{_text(value[1])}</td>'
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{_text(value)}</td>"
    return f'<td class="number">{value:.4g}</td>' if isinstance(value, float) else f'<td class="number">{value}</td>'


def render(title: str, sections: list[Section]) -> str:
    """The page as one HTML string."""
    links = "".join(f'<a href="#s{i}">{_text(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(
        f'<h2 id="s{i}">{_text(s.title)}</h2>' + (f"<p>{_text(s.intro)}</p>" if s.intro else "") + "".join(s.parts)
        for i, s in enumerate(sections)
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{_text(title)}</h1><nav>{links}</nav>{body}</body></html>\n"
    )
