"""The page is one file that loads nothing, escapes what it shows, and renders whatever point a run has reached."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from tests.report.story import FIRST, UNTRAINED, Story, whole_journey

from gaelp.report.html import write_report
from gaelp.store.store import Store

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """The tags and attributes of a page; raises when a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.ids |= {str(value) for name, value in attrs if name == "id"}
        self.links |= {str(value) for name, value in attrs if name == "href"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        # A list item may stay open in HTML; ours do not.
        assert self.open.pop() == tag


def page_of(store: Store, run_id: str, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    write_report(store, run_id, path)
    return path.read_text(encoding="utf-8")


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_a_whole_journey_fills_every_section(store: Store, tmp_path: Path) -> None:
    story = whole_journey(store)
    page = page_of(store, story.run_id, tmp_path)
    reader = read(page)
    # Gain, entropy, weight change, shares, intervals, money, arms.
    assert reader.tags.count("svg") == 7
    assert {link.removeprefix("#") for link in reader.links} <= reader.ids
    for word in (
        "R. Money",
        "7500000 micros",
        "All four are equal to the micro.",
        "0.1100 to 0.2100",
        "the later days are usual ones.",
        "<tr><td>cost per click</td>",
        f"gaelp verify {story.run_id}",
    ):
        assert word in page
    assert store.head_hash(story.run_id) in page


def test_the_page_loads_nothing(store: Store, tmp_path: Path) -> None:
    page = page_of(store, whole_journey(store).run_id, tmp_path)
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert "src" not in reader.attributes
    assert all(link.startswith("#") for link in reader.links)
    assert not re.search(r"https?:|@import|url\(", page)


def test_what_the_log_says_is_escaped(store: Store, tmp_path: Path) -> None:
    story = Story(store)
    story.begin("simulation")
    story.train("simulation", before=UNTRAINED, after=FIRST, change=0.1)
    story.judge("simulation", actor=FIRST, reason="<script>alert(1)</script>")
    story.begin("<b>scaled")
    story.train("<b>scaled", before=UNTRAINED, after=FIRST, change=0.1)
    story.end("simulation", "FAIL", "<script>alert(2)</script>")
    page = page_of(store, story.run_id, tmp_path)
    assert "script" not in read(page).tags
    assert "&lt;script&gt;alert(2)" in page
    assert "<b>scaled" not in page


def test_numbers_name_their_events(store: Store, tmp_path: Path) -> None:
    story = whole_journey(store)
    judged = next(event.seq for event in store.events(story.run_id, ["judged"]))
    assert f'title="read from event {judged} of the log">{judged}</sup>' in page_of(
        store, story.run_id, tmp_path
    )


def test_a_run_without_phases_still_has_a_page(store: Store, tmp_path: Path) -> None:
    page = page_of(store, Story(store).run_id, tmp_path)
    read(page)
    for sentence in ("No phase has begun.", "Nothing has been judged yet.", "Nothing was granted"):
        assert sentence in page


def test_a_run_that_died_anywhere_has_a_page(store: Store, tmp_path: Path) -> None:
    whole = list(store.events(whole_journey(store).run_id))
    ledger = ("granted", "reserved", "posted", "released", "approved")
    half = Story(store, "half-1")
    for event in whole:
        if event.kind not in ledger:
            half.tell(event.kind, **event.payload)
            read(page_of(store, "half-1", tmp_path))


def test_a_page_is_written_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    write_report(store, whole_journey(store).run_id, tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir() if "report" in path.name) == ["report.html"]
