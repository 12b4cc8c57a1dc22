"""Tables for the terminal, and one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

Measured = dict[str, Any]


def first_item_table(result: Measured) -> Table:
    table = Table(title="20 pages x 5 items, 1.5 s a page, 0.2 s an item (median of the warm rounds; cold)")
    for column in (
        "",
        "first item, s",
        "all done, s",
        "of native",
        "of the floor",
        "worker launches",
        "made p50, p95, s",
    ):
        table.add_column(column, justify="left" if not column else "right")
    native, floor = result["variants"]["native"]["warm"], result["floor"]
    for name, measured in result["variants"].items():
        warm, cold = measured["warm"], measured["cold"]
        table.add_row(
            name,
            f"{warm['first_item']:.1f} ({cold['first_item']:.1f})",
            f"{warm['all_done']:.1f} ({cold['all_done']:.1f})",
            f"{warm['first_item'] / native['first_item']:.2f}, {warm['all_done'] / native['all_done']:.2f}",
            f"{warm['all_done'] / floor['all_done']:.2f}",
            f"{warm['launches']:.0f}",
            _quantiles(warm["to_instances"]),
        )
    table.add_row("floor", f"{floor['first_item']:.1f}", f"{floor['all_done']:.1f}", "", "1.00", "", "")
    return table


def _quantiles(seconds: list[float]) -> str:
    if not seconds:
        return ""
    sorted_ = sorted(seconds)
    return f"{sorted_[len(sorted_) // 2]:.2f}, {sorted_[int(len(sorted_) * 0.95)]:.2f}"


def peaks_table(title: str, peaks: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title)
    kinds = sorted({kind for one in peaks.values() for kind in one})
    for column in ("", *kinds):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in peaks.items():
        table.add_row(name, *(f"{one.get(kind, 0):.0f}" for kind in kinds))
    return table


def many_instances_table(result: Measured) -> Table:
    table = Table(title="40 pages x 25 items, 0.5 s a page: making 1,000 task instances (median; items wait)")
    for column in (
        "",
        "all made, s",
        "made per s of work",
        "queries per item",
        "scheduler loop p50, p95, max, ms",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in result.items():
        table.add_row(
            name,
            f"{one['all_made']:.1f}",
            f"{one['made_per_second']:.0f}",
            f"{one['queries_per_item']:.1f}",
            f"{one['loop_p50_ms']:.0f}, {one['loop_p95_ms']:.0f}, {one['loop_max_ms']:.0f}",
        )
    return table


def walk_table(result: Measured) -> Table:
    table = Table(title="A walk without Airflow, 1,000,000 items, batches of 100")
    for column in ("", "bare async for, us an item", "walk, us an item", "over bare, us", "items per s"):
        table.add_column(column, justify="left" if not column else "right")
    for one in result["cost"]:
        table.add_row(
            one["source"],
            *(f"{one[key]:.2f}" for key in ("bare_us", "walk_us", "over_bare_us")),
            f"{one['items_per_second']:,.0f}",
        )
    return table


def many_items_table(result: Measured) -> Table:
    table = Table(title="17,000 tiny files; 2,000 deferrable items of two hops of a second")
    for column in ("", "items", "seconds", "items a second", "processor ms an item", "worker, MB"):
        table.add_column(column, justify="left" if not column else "right")
    for part, variants in result.items():
        for name, one in variants.items() if isinstance(variants, dict) else ():
            items = one.get("items", 0)
            table.add_row(
                f"{part}: {name}",
                f"{items:,}",
                f"{one['seconds']:.1f}",
                f"{items / one['seconds']:,.0f}",
                f"{1000 * one['cpu'] / items:.2f}" if "cpu" in one else "",
                f"{one.get('worker_mb', 0):.0f}",
            )
    return table


def item_streams_table(result: Measured) -> Table:
    table = Table(title="20 pages x 5 items, 1.5 s a page, 0.2 s an item; 2,000 items that do nothing")
    for column in ("", "first item, s", "all done, s"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {name: one for name, one in result.items() if name != "peers"}
    rows |= {f"{peer}, {case}": one for peer, of_it in result["peers"].items() for case, one in of_it.items()}
    for name, one in rows.items():
        first, done = one.get("first_item"), one.get("all_done")
        table.add_row(name, f"{first:.1f}" if first else "", f"{done:.1f}" if done else "> 180")
    return table


def print_tables(console: Console, results: Measured) -> None:
    if "first_item" in results:
        result = results["first_item"]
        console.print(first_item_table(result))
        peaks = {name: one["warm"]["peak_mb"] for name, one in result["variants"].items()}
        console.print(peaks_table("the same: largest process of each kind up to then, MB", peaks))
    if "many_instances" in results:
        console.print(many_instances_table(results["many_instances"]))
    if "large_pages" in results:
        peaks = {
            f"{name}, {pages} pages": one
            for name, counts in results["large_pages"].items()
            for pages, one in counts.items()
        }
        console.print(peaks_table("pages of 1 MB: largest process of each kind, MB", peaks))
    if "walk" in results:
        console.print(walk_table(results["walk"]))
        console.print("memory of a million items, MB:", results["walk"]["memory"])
    for name in ("triggerer", "busy triggerer"):
        if name in results:
            console.print("300 open streams in one triggerer:", results[name])
    _print_items(console, results)


def sizes_table(results: Measured) -> Table:
    table = Table(title="instances that start no worker, a source of 20 s")
    for column in (
        "",
        "all exist after, s",
        "run, s",
        "processor time an instance, ms",
        "longest pass, s",
        "died",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in results.items():
        table.add_row(
            name,
            f"{one['all_made']:.0f}",
            f"{one['seconds']:.0f}",
            f"{one['cpu_ms_in_all']:.1f}",
            f"{one['loop_max_ms'] / 1000:.1f}",
            ", ".join(one["died"]),
        )
    return table


def _print_items(console: Console, results: Measured) -> None:
    """Of instances of many items, and of windows."""
    if "many items" in results:
        console.print(many_items_table(results["many items"]))
    if "resumed items" in results:
        result = results["resumed items"]
        console.print("17,000 files, killed at half:", result["resumed"])
        peaks = {name: one["peak_mb"] for name, one in result["memory"].items()}
        console.print(peaks_table("items that do nothing: largest process of each kind, MB", peaks))
    if "windows" in results:
        console.print("rows in windows of 500, iterated over in runs of their own:", results["windows"])
    if "sizes" in results:
        console.print(sizes_table(results["sizes"]))
    for name, measured in results.get("pages", {}).items():
        console.print(f"page, {name}:", measured)
    if "item streams" in results:
        console.print(item_streams_table(results["item streams"]))


def draw(results: Measured, picture: Path) -> None:
    """First item and all done, for each way to expand, beside the floor."""
    from matplotlib.figure import Figure

    variants = results["first_item"]["variants"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for row, measured in enumerate(variants.values()):
        warm = measured["warm"]
        axes.barh(row, warm["first_item"], color="#d8dee9")
        axes.barh(row, warm["all_done"] - warm["first_item"], left=warm["first_item"], color="#2e8b57")
        label = f"first item {warm['first_item']:.1f} s, all done {warm['all_done']:.1f} s"
        axes.text(warm["all_done"] + 0.5, row, label, va="center", fontsize=9)
    floor = results["first_item"]["floor"]["all_done"]
    axes.axvline(floor, color="#b03a2e", linestyle="--", linewidth=1)
    axes.text(floor, -0.75, "floor: the source and one item", color="#b03a2e", fontsize=8, ha="center")
    axes.set_yticks(range(len(variants)), list(variants))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(one["warm"]["all_done"] for one in variants.values()))
    axes.set_xlabel("seconds after the run was asked for; green: items run")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)
