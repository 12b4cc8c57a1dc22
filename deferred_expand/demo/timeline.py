"""What happened when: as a picture, and in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

SOURCE, HEAD, ITEM = "#9db4d0", "#e3b23c", "#2e8b57"


@dataclass(frozen=True)
class Bar:
    """One stretch of time, in seconds from the start of the run."""

    label: str
    start: float
    end: float
    colour: str


@dataclass(frozen=True)
class RunTimes:
    """
    One run, in seconds from its start.

    :param bars: the source, the stream head if there is one, then the items in the order of their pages.
    :param last_page: when the API gave its last page.
    """

    name: str
    bars: list[Bar]
    last_page: float
    first_item: float
    done: float
    rows: int


def seconds(moment: str, start: float) -> float:
    return datetime.fromisoformat(moment).timestamp() - start


def run_times(
    name: str, run: dict[str, Any], instances: list[dict[str, Any]], asked: list[float], rows: int
) -> RunTimes:
    """:param instances: of the mapped task, by map index; a streamed one has its head at index 0."""
    start = datetime.fromisoformat(run["start_date"]).timestamp()
    done = seconds(run["end_date"], start)
    streamed = len(instances) > len(asked)
    head, items = (instances[:1], instances[1:]) if streamed else ([], instances)
    bars = [Bar("source", 0.0, asked[-1] - start, SOURCE)]
    bars += [Bar("stream head", 0.0, seconds(ti["end_date"], start), HEAD) for ti in head]
    bars += [
        Bar(f"page {number}", seconds(ti["start_date"], start), seconds(ti["end_date"], start), ITEM)
        for number, ti in enumerate(items, 1)
    ]
    first_item = min(seconds(ti["start_date"], start) for ti in items)
    return RunTimes(name, bars, asked[-1] - start, first_item, done, rows)


def draw(runs: list[RunTimes], title: str, path: Path) -> None:
    """Write the picture."""
    import matplotlib as mpl
    import matplotlib.patches

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(runs), 1, sharex=True, figsize=(10, 3.4 * len(runs)), squeeze=False)
    for (panel,), run in zip(panels, runs, strict=True):
        for row, bar in enumerate(run.bars):
            panel.barh(row, max(bar.end - bar.start, 0.15), left=bar.start, height=0.85, color=bar.colour)
        panel.axvline(run.last_page, color="#b03a2e", linestyle="--", linewidth=1)
        above = panel.get_xaxis_transform()
        panel.text(
            run.last_page, 1.01, "last page read", color="#b03a2e", fontsize=9, ha="center", transform=above
        )
        panel.set_title(
            f"{run.name}: first item after {run.first_item:.1f} s, all done after {run.done:.1f} s",
            loc="left",
            fontsize=11,
            pad=16,
        )
        panel.set_yticks([])
        panel.set_ylabel("pages")
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    names = {"source": SOURCE, "stream head": HEAD, "task instance of a page": ITEM}
    patches = [mpl.patches.Patch(color=colour, label=name) for name, colour in names.items()]
    panels[0][0].legend(handles=patches, loc="lower left", frameon=False)
    panels[-1][0].set_xlabel("seconds from the start of the run")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def terminal_timeline(runs: list[RunTimes], width: int = 60) -> Table:
    """Each page's task instance as a stretch of blocks."""
    longest = max(run.done for run in runs)
    table = Table(box=None, show_header=False, padding=(0, 1))
    for run in runs:
        table.add_row("", Text(run.name, style="bold"))
        for bar in run.bars:
            left = int(bar.start / longest * width)
            length = max(1, round((bar.end - bar.start) / longest * width))
            table.add_row(bar.label, Text(" " * left + "█" * length, style=bar.colour))
    table.add_row("", Text(f"0 s{f'{longest:.0f} s':>{width - 3}}", style="dim"))
    return table


def figures(runs: list[RunTimes]) -> Table:
    table = Table("", "first item starts", "all done", "rows in the table", box=None, padding=(0, 2))
    for run in runs:
        table.add_row(run.name, f"{run.first_item:.1f} s", f"{run.done:.1f} s", f"{run.rows:,}")
    return table
