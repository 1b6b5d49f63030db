"""Tables that a terminal of 80 columns shows whole: names fold, heads and numbers are never cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table


def figures(title: str, names: str, heads: Sequence[str], *, caption: str | None = None) -> Table:
    """A table of one name and as many numbers a row; a line break in a head is where it may break.

    Rich cuts whatever does not fit with an ellipsis. Here only the column of names gives way, and it folds.
    """
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column(names, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table
