"""A self-contained HTML page: no network, no script, readable on a phone and in dark mode."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from quran_asr import __version__


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page. Every text is escaped."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One recording of a page: reference and hypothesis. Every text is escaped."""

    title: str
    reference: str
    hypothesis: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page that is HTML already; who makes it escapes what comes from outside."""

    title: str
    body: str


def page(title: str, parts: Sequence[Table | Example | Part]) -> bytes:
    """The page as UTF-8. Its policy lets no browser fetch anything, whatever it contains.

    Args:
        title: escaped here.
        parts: in their order; the first lines of the page lead to them.
    """
    style = files("quran_asr.experiments.plots").joinpath("html_page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(
        f'<li><a href="#part-{number}">{html.escape(part.title)}</a></li>'
        for number, part in enumerate(parts, start=1)
    )
    sections = "\n".join(
        f'<section id="part-{number}"><h2>{html.escape(part.title)}</h2>\n{_body(part)}</section>'
        for number, part in enumerate(parts, start=1)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<nav aria-label="Parts of this page"><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
<footer>Made by quran-asr {__version__}.</footer>
</body>
</html>
""".encode()


def image(wide: bytes, narrow: bytes, description: str) -> str:
    """HTML of a PNG for screens and one for phones."""
    screen, phone = (base64.b64encode(picture).decode() for picture in (wide, narrow))
    return (
        f'<picture><source media="(max-width: 40rem)" srcset="data:image/png;base64,{phone}">'
        f'<img alt="{html.escape(description)}" src="data:image/png;base64,{screen}"></picture>'
    )


def _body(part: Table | Example | Part) -> str:
    if isinstance(part, Part):
        return part.body
    note = f'<p class="note">{html.escape(part.note)}</p>' if part.note else ""
    if isinstance(part, Example):
        lines = "".join(
            f'<p>{name}</p><p class="arabic" dir="rtl" lang="ar">{html.escape(text)}</p>'
            for name, text in (("reference", part.reference), ("hypothesis", part.hypothesis))
        )
        return lines + note
    return _table(part) + note


def _table(table: Table) -> str:
    header = ""
    if any(table.header):
        cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
        header = f"<thead><tr>{cells}</tr></thead>"
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    label = html.escape(table.title)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">'
        f"<table>{header}<tbody>{rows}</tbody></table></div>"
    )
