"""How numbers and times are spelt for people: 2m 10s, 1,204, 0.8 %. Plain functions; `templatetags.ui` dresses them."""

from __future__ import annotations

from apps.lib.micros import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Micros, to_datetime

#: Times outside these are shown as numbers: no calendar of Python or a browser holds them.
_FIRST, _LAST = -62_135_596_800 * SECOND, 253_402_300_799 * SECOND


def duration_parts(micros: Micros | None) -> list[tuple[str, str]]:
    """(figure, unit) pairs of a duration, at most two: 340 ms, 4.2 s, 24 m 05 s, 1 h 12 m, 3 d 02 h."""
    if micros is None:
        return []
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    if micros < SECOND:
        return [(f"{sign}{micros // MILLISECOND if micros >= MILLISECOND or micros == 0 else '<1'}", "ms")]
    if micros < 59_950 * MILLISECOND:
        return [(f"{sign}{micros / SECOND:.1f}", "s")]
    for unit, name, below, below_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "m"), (MINUTE, "m", SECOND, "s")):
        rounded = (micros + below // 2) // below * below
        if rounded >= unit:
            return [(f"{sign}{rounded // unit:,}", name), (f"{rounded % unit // below:02d}", below_name)]
    return [(f"{sign}{micros / SECOND:.1f}", "s")]


def duration_text(micros: Micros | None) -> str:
    """A duration in words for titles, messages and sentences; an en dash when it is not known."""
    return " ".join(f"{figure} {unit}" for figure, unit in duration_parts(micros)) or "–"


def elapsed_text(micros: Micros) -> str:
    """A duration that counts on, in whole units: 4 s, 12 m 31 s, 1 h 04 m. The page's script writes the same."""
    seconds = max(0, micros // SECOND)
    if seconds < 60:
        return f"{seconds} s"
    for size, unit, below, below_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size:,} {unit} {seconds % size // below:02d} {below_unit}"
    return ""


def moment_text(micros: Micros, style: str) -> str:
    """A moment in UTC: `time` 14:29:30, `millis` 14:29:30.123, `date` 19 Nov 2026, `minute` and `full` both of them."""
    if not _FIRST <= micros <= _LAST:
        return f"{micros / SECOND:.0f} s"
    moment = to_datetime(micros)
    date = f"{moment.day} {moment:%b} {moment.year}"
    time = f"{moment:%H:%M:%S}"
    if style == "millis":
        return f"{time}.{moment.microsecond // 1000:03d}"
    return {"time": time, "date": date, "minute": f"{date}, {moment:%H:%M}"}.get(style, f"{date} {time}")


def iso_text(micros: Micros) -> str:
    """RFC 3339 for the `datetime` attribute; empty where no calendar holds the time."""
    if not _FIRST <= micros <= _LAST:
        return ""
    return to_datetime(micros).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def percent_text(share: float | None) -> str:
    """A share of 1 as 0.8 %; `0` when it is nothing and `<0.1 %` when it is hardly anything."""
    if share is None:
        return "–"
    if share == 0:
        return "0"
    if share < 0.001:
        return "<0.1 %"
    return f"{share * 100:.1f} %" if share < 0.9995 else "100 %"
