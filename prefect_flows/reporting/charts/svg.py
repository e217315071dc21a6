"""Common parts of the SVG charts: status colors, text escaping, formatted sizes."""

from __future__ import annotations

from markupsafe import escape

NOTHING = "\N{EN DASH}"

# Colors by Okabe and Ito, which color-blind readers can tell apart.
STATUSES_BY_GROUP = {
    "good": frozenset({"success", "pass", "reported"}),
    "reused": frozenset({"reused"}),
    "warned": frozenset({"warn"}),
    "failed": frozenset({"error", "fail", "runtime error", "partial success"}),
    "skipped": frozenset({"skipped", "no-op"}),
}
LEGEND = {
    "good": "success, pass",
    "reused": "reused",
    "warned": "warn",
    "failed": "error, fail",
    "skipped": "skipped",
    "other": "not run",
}
STYLE = """
.mr{--ink:#1b1f24;--soft:#5b6570;--line:#d5dae0;--paper:#fff;--good:#009e73;--warned:#e69f00;
--failed:#d55e00;--skipped:#9aa3ad;--other:#c3cad2;--critical:#0b3d91;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media(prefers-color-scheme:dark){.mr{--ink:#e6e9ec;--soft:#a3adb8;--line:#3a424b;--paper:#14181d;
--good:#1fb88b;--warned:#f0b429;--failed:#f2803a;--skipped:#75808c;--other:#4d5762;
--critical:#9cc4ff}}
.mr .good{fill:var(--good)}.mr .warned{fill:var(--warned)}.mr .failed{fill:var(--failed)}
.mr .skipped{fill:var(--skipped)}.mr .other{fill:var(--other)}
.mr text{fill:var(--ink);font-size:12px}.mr .soft{fill:var(--soft)}.mr .on{fill:#10151a}
"""


def get_group(status: str | None) -> str:
    """Return the group of a status, which determines its color."""
    for group, statuses in STATUSES_BY_GROUP.items():
        if status in statuses:
            return group
    return "other"


def text(value: str) -> str:
    """Escape text for an attribute or element, without characters that XML forbids."""
    return str(escape("".join(c for c in value if c >= " " or c in "\t\n")))


def size(count: int | None) -> str:
    """Format a number of bytes with a suitable unit."""
    if count is None:
        return NOTHING
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def slots(seconds: float | None) -> str:
    """Format BigQuery slot seconds."""
    return NOTHING if seconds is None else f"{seconds:,.1f}"
