"""Items over time, as SVG with no styles of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.airflow_internals.times import Point, TimesOfItems

WIDTH, HEIGHT = 900, 220
LEFT, BOTTOM, TOP, RIGHT = 60, 24, 10, 10
LINES = 5  # of the grid, each way
MOST_POINTS = 300
RATE_OVER = 60.0  # seconds


def draw(times: TimesOfItems, others: Sequence[TimesOfItems] = ()) -> Markup | None:
    """
    ``None``: nothing is committed yet.

    :param others: streams that this one follows, or that follow it.
    """
    committed, finished = times.committed, times.finished
    if not committed:
        return None
    beside = [other.committed for other in others if other.committed]
    frame = _Frame([*committed, *finished, *(point for points in beside for point in points)])
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_told(times)}">',
        *frame.grid(),
        *(f'<path class="line other" d="{frame.steps(points)}"/>' for points in beside),
        f'<path class="line committed" d="{frame.steps(committed)}"/>',
    ]
    if finished:
        parts.append(f'<path class="line finished" d="{frame.steps(finished)}"/>')
    return Markup("".join([*parts, "</svg>"]))  # numbers only


def a_minute(points: Sequence[Point], now: float) -> float:
    """
    How much has come of late.

    :param now: in seconds since the epoch.
    """
    if not points:
        return 0.0
    before = [(at, items) for at, items in points if at <= now - RATE_OVER]
    at, items = before[-1] if before else (points[0][0], 0)
    seconds = RATE_OVER if before else max(now - at, 1.0)
    return 60 * (points[-1][1] - items) / seconds


def _told(times: TimesOfItems) -> str:
    done = times.finished[-1][1] if times.finished else 0
    return f"items over time: {times.committed[-1][1]} committed, {done} finished"


class _Frame:
    def __init__(self, points: Sequence[Point]) -> None:
        self._first = min(at for at, _ in points)
        self._seconds = max(max(at for at, _ in points) - self._first, 1.0)
        self._items = max(max(items for _, items in points), 1)

    def x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - self._first) / self._seconds

    def y(self, items: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - items / self._items)

    def grid(self) -> list[str]:
        parts = []
        for line in range(LINES):
            share = line / (LINES - 1)
            y, x = self.y(share * self._items), LEFT + (WIDTH - LEFT - RIGHT) * share
            parts += [
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{round(share * self._items):,}</text>",
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
                f"{_span(share * self._seconds)}</text>",
            ]
        return parts

    def steps(self, points: Sequence[Point]) -> str:
        shown = points[:: max(1, len(points) // MOST_POINTS)]
        path = f"M{self.x(points[0][0]):.1f},{self.y(0):.1f}"
        for at, items in [*shown, points[-1]]:
            path += f"H{self.x(at):.1f}V{self.y(items):.1f}"
        return f"{path}H{self.x(self._first + self._seconds):.1f}"


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 3 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
