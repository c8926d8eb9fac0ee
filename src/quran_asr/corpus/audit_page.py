"""An audit as a self-contained HTML page: distributions, and players for the worst clips."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from quran_asr import audio
from quran_asr.corpus.audit import AuditedClip, AuditReport
from quran_asr.corpus.audit_rules import REASONS
from quran_asr.corpus.signal import Signal
from quran_asr.errors import QuranAsrError, counted
from quran_asr.files import write_atomically

PLAYERS_A_REASON = 4
PLAYERS = 40
PLAYED_SECONDS = 20.0
"""Seconds; a longer clip is cut for the page."""

_BINS = 40

_MEASURES: tuple[tuple[str, str, Callable[[AuditedClip, Signal], float | None]], ...] = (
    ("Length", "s", lambda clip, signal: signal.seconds),
    ("Letters a second", "", lambda clip, signal: len(clip.segment.text.replace(" ", "")) / signal.seconds),
    ("Length against the words", "deviations", lambda clip, signal: clip.deviation),
    ("Level", "dBFS", lambda clip, signal: signal.level_db),
    ("Signal to noise, estimated", "dB", lambda clip, signal: signal.snr_db),
    ("Bandwidth", "Hz", lambda clip, signal: signal.bandwidth_hz),
    ("Clipped samples", "%", lambda clip, signal: 100 * signal.clipped_share),
    ("Silence", "%", lambda clip, signal: 100 * signal.silence_share),
    ("Longest pause", "s", lambda clip, signal: signal.longest_pause),
    ("First 30 ms against the speech", "dB", lambda clip, signal: max(-60.0, signal.start_db)),
    ("Last 30 ms against the speech", "dB", lambda clip, signal: max(-60.0, signal.end_db)),
)

_STYLE = """
:root{--ink:#1c2230;--soft:#5b6475;--line:#d5dae3;--ground:#fff;--card:#f5f7fa;--keep:#3b7dd8;--drop:#d1495b}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#9aa4b5;--line:#39414f;--ground:#14181f;
--card:#1d232d;--keep:#6ea8ff;--drop:#ff7a8a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);margin:0 auto;
max-width:1100px;padding:16px;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.15rem;margin:2rem 0 .6rem}
p.soft,.soft{color:var(--soft);font-size:.88rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
th,td{overflow-wrap:normal}th,td.n{white-space:nowrap}td:first-child{min-width:11rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:12px}
.card{background:var(--card);border-radius:8px;padding:12px;min-width:0}
.card h3{font-size:.95rem;margin:0 0 .3rem}
svg{display:block;width:100%;height:auto}
.keep{fill:var(--keep)}.drop{fill:var(--drop)}text{fill:var(--soft);font-size:11px}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 .9em}
audio{width:100%;margin-top:.4rem}
.ar{font-size:1.15rem;line-height:1.9;direction:rtl;text-align:right;margin:.3rem 0}
"""


def write_page(report: AuditReport, path: Path, *, with_audio: bool = True) -> Path:
    """Write the page; an existing one is replaced.

    Args:
        report: of the audit.
        path: of the page.
        with_audio: embed the worst clips. Recordings often may not be redistributed; the page then may not
            either.

    Returns:
        `path`.
    """
    clips, clean, rejects = report.clips, report.clean, report.rejects
    hours = sum(one.segment.duration for one in clips) / 3600
    parts = [
        f"<h1>Audit of {escape(report.manifest.name)}</h1>",
        f"<p>{counted(len(clips), 'clip')}, {hours:.2f} hours: {len(clean):,} kept, "
        f"{len(rejects):,} rejected.</p>",
        _findings(report),
        _reasons(report),
        "<h2>Distributions</h2><p class='soft key'>Clips on a square-root scale."
        "<i style='background:var(--keep)'></i>kept<i style='background:var(--drop)'></i>rejected</p>"
        "<div class='grid'>",
        *(_histogram(title, unit, value, clips) for title, unit, value in _MEASURES),
        "</div>",
        _worst(report, with_audio),
    ]
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; media-src data:\">"
        f"<title>Audit of {escape(report.manifest.name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def _findings(report: AuditReport) -> str:
    shown = [finding for finding in report.findings if finding.severity == "error"]
    if not shown:
        return ""
    items = "".join(
        f"<li><b>{escape(one.code)}</b> {escape(one.where)} {escape(one.message)}"
        f"{' <span class=soft>' + escape(one.remedy) + '</span>' if one.remedy else ''}</li>"
        for one in shown[:20]
    )
    more = f"<p class='soft'>{len(shown) - 20} more errors</p>" if len(shown) > 20 else ""
    return f"<h2>Errors</h2><ul>{items}</ul>{more}"


def _reasons(report: AuditReport) -> str:
    reciters = sorted({one.segment.reciter for one in report.clips})
    heads = "".join(f"<th class='n'>{escape(name or 'no name')}</th>" for name in reciters)
    rows = []
    for code, total in report.reasons.items():
        cells = ""
        for name in reciters:
            count = sum(
                one.segment.reciter == name and any(reason.code == code for reason in one.reasons)
                for one in report.clips
            )
            cells += f"<td class='n'>{count or ''}</td>"
        kind = REASONS[code]
        rows.append(
            f"<tr><td>{escape(code)}<br><span class='soft'>{escape(kind.meaning)}</span></td>"
            f"<td>{kind.action}</td><td class='n'>{total}</td>{cells}</tr>"
        )
    if not rows:
        return "<p>Nothing was found.</p>"
    return (
        "<h2>Reasons</h2><div class='scroll'><table><thead><tr><th>reason</th><th>verdict</th>"
        f"<th class='n'>clips</th>{heads if len(reciters) <= 12 else ''}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _histogram(
    title: str,
    unit: str,
    value: Callable[[AuditedClip, Signal], float | None],
    clips: Sequence[AuditedClip],
) -> str:
    """Stacked bars of kept and rejected clips, as inline SVG."""
    pairs = [
        (number, one.kept)
        for one in clips
        if one.measured.signal and (number := value(one, one.measured.signal)) is not None
    ]
    if not pairs:
        return ""
    numbers = np.array([number for number, _ in pairs])
    kept = np.array([keep for _, keep in pairs])
    low, high = float(numbers.min()), float(numbers.max())
    high = high if high > low else low + 1.0
    keep_bars, _ = np.histogram(numbers[kept], bins=_BINS, range=(low, high))
    drop_bars, _ = np.histogram(numbers[~kept], bins=_BINS, range=(low, high))
    tallest = float(np.sqrt((keep_bars + drop_bars).max()))
    bars = []
    for place, (keep, drop) in enumerate(zip(keep_bars.tolist(), drop_bars.tolist(), strict=True)):
        if keep + drop:
            height = 90 * np.sqrt(keep + drop) / tallest
            dropped = height * drop / (keep + drop)
            x = 300 * place / _BINS
            width = 300 / _BINS - 1
            for kind, top, tall in (
                ("drop", 95 - height, dropped),
                ("keep", 95 - height + dropped, height - dropped),
            ):
                if tall > 0:
                    bars.append(
                        f"<rect class='{kind}' x='{x:.1f}' y='{top:.1f}' width='{width:.1f}' "
                        f"height='{tall:.1f}'/>"
                    )
    middle = float(np.median(numbers))
    return (
        f"<div class='card'><h3>{escape(title)}{f' ({escape(unit)})' if unit else ''}</h3>"
        f"<svg viewBox='0 0 300 112' role='img' aria-label='{escape(title)}: from {_short(low)} "
        f"to {_short(high)}, median {_short(middle)}'>{''.join(bars)}<text x='0' y='109'>{_short(low)}</text>"
        f"<text x='150' y='109' text-anchor='middle'>median {_short(middle)}</text>"
        f"<text x='300' y='109' text-anchor='end'>{_short(high)}</text></svg></div>"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _worst(report: AuditReport, with_audio: bool) -> str:
    """Cards of the most extreme clips, a few for each reason."""
    chosen: list[AuditedClip] = []
    for code in report.reasons:
        those = [one for one in report.rejects if any(reason.code == code for reason in one.reasons)]
        those.sort(key=lambda one: (-len(one.reasons), -abs(one.deviation or 0.0)))
        chosen += [one for one in those[:PLAYERS_A_REASON] if one not in chosen]
    if not chosen:
        return ""
    cards = []
    for one in chosen[:PLAYERS]:
        reasons = "".join(
            f"<li><b>{escape(reason.code)}</b> {escape(reason.detail)}</li>" for reason in one.reasons
        )
        signal = one.measured.signal
        facts = [f"{signal.seconds:.1f} s"] if signal else []
        facts += [f"{one.expected:.1f} s expected"] if one.expected is not None else []
        facts += [f"{signal.snr_db:.0f} dB to noise"] if signal else []
        player = _player(one) if with_audio and signal else ""
        cards.append(
            f"<div class='card'><h3>{escape(one.name)}</h3><div class='ar' lang='ar'>"
            f"{escape(one.segment.text[:160])}</div><ul>{reasons}</ul>"
            f"<div class='soft'>{escape(', '.join(facts))}<br>{escape(one.segment.audio)}</div>{player}</div>"
        )
    return (
        "<h2>Rejected clips</h2><p class='soft'>"
        f"Up to {PLAYERS_A_REASON} of each reason.</p><div class='grid'>{''.join(cards)}</div>"
    )


def _player(one: AuditedClip) -> str:
    segment = one.segment
    try:
        samples = audio.read(segment.audio, segment.offset, min(segment.duration, PLAYED_SECONDS))
        sound = base64.b64encode(audio.as_mp3(samples)).decode()
    except (QuranAsrError, OSError):
        return ""
    return f"<audio controls preload='none' src='data:audio/mpeg;base64,{sound}'></audio>"
