"""One page of HTML with the ladders of suites: a picture and a table for each, nothing loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from gaelp.market.ladder import Ladder, Rung
from gaelp.report import charts

_TEMPLATE = "ladder.html"


def write_page(ladders: Sequence[Ladder], path: Path) -> None:
    """Write the page, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(page(ladders), encoding="utf-8")
    os.replace(draft, path)


def page(ladders: Sequence[Ladder]) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = percent
    shown = [(ladder, climbed(ladder), picture(ladder)) for ladder in ladders]
    return environment.get_template(_TEMPLATE).render(shown=shown)


def climbed(ladder: Ladder) -> tuple[Rung, ...]:
    """The clairvoyant first, then the baselines, the best on top."""
    return (ladder.clairvoyant, *sorted(ladder.rungs, key=lambda rung: -rung.share.middle))


def picture(ladder: Ladder) -> Markup:
    """Every policy's share with its interval; the mark is the reference."""
    return charts.rungs(
        [
            charts.Interval(
                name=rung.name, middle=rung.share.middle, low=rung.share.low, high=rung.share.high, bound=1.0,
                title=f"{rung.name}: {percent(rung.share.low)} to {percent(rung.share.high)}",
            )
            for rung in climbed(ladder)
        ],
        form=percent,
    )  # fmt: skip


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"
