"""The canonical history: written and read back unchanged, held against its contract, and used off-policy only where it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gaelp.bidding.act import move_mask
from gaelp.core.episode import SOURCES, EpisodeBatch, Source
from gaelp.core.errors import BadInput
from gaelp.core.schema import default_schema
from gaelp.logs.canonical import (
    DECISIONS,
    HOURS,
    History,
    cube,
    export_history,
    import_history,
    import_reports,
)
from gaelp.market.hours import hours_of
from gaelp.orchestration.gather import logged_episodes

SCHEMA = default_schema()
ITEMS, DAYS, TICKS, T = 2, 3, 48, 6
FIRST = 10
"""The history's first day."""
PACER = "0123456789abcdef"


def whole(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1).astype(np.int64)


def tables() -> History:
    """Two line items over days 10 to 12; numbers that tell where they stand: clicks = 100 item + 10 day + 1 from tick 24."""
    item, day, tick = np.meshgrid(np.arange(ITEMS), FIRST + np.arange(DAYS), np.arange(TICKS), indexing="ij")
    clicks = 100 * item + 10 * (day - FIRST) + (tick >= 24)
    hours = pl.DataFrame(
        {
            "campaign": [f"acct/m{i}" for i in item.reshape(-1)], "item": whole(item), "day": whole(day),
            "weekday": whole(day % 7), "tick": whole(tick), "bid_micros": np.full(item.size, 40_000),
            "move": np.where(tick < 24, 0.0, -0.35).reshape(-1), "eligible": np.full(item.size, 500),
            "impressions": whole(clicks * 2), "clicks": whole(clicks), "cost_micros": whole(clicks * 30_001),
            "conversions": whole(clicks // 10), "arrived": whole(clicks // 20),
            "target_cpa_micros": whole(200_000 + 100_000 * item), "budget_micros": np.full(item.size, 5_000_000),
        }
    )  # fmt: skip
    item, day, decision = np.meshgrid(
        np.arange(ITEMS), FIRST + np.arange(DAYS), np.arange(T + 1), indexing="ij"
    )
    n = item.size
    lasting = decision == T
    moves = np.where(lasting, 0, np.where(decision < 3, SCHEMA.zero_move, 12))
    seen = np.arange(n, dtype=np.float32)[:, None] + np.arange(256, dtype=np.float32) / 256
    decisions = pl.DataFrame(
        {
            "campaign": [f"acct/m{i}" for i in item.reshape(-1)], "item": whole(item), "day": whole(day),
            "decision": whole(decision), "move": whole(moves),
            "pace": np.where(lasting | (decision < 3), 0.0, -0.35).reshape(-1),
            "log_prob": np.where(lasting, 0.0, np.log(np.where(decision < 3, 0.65, 0.05))).reshape(-1),
            "scale": np.full(n, 50.0), "pacer_hash": [PACER] * n, "schema_hash": [SCHEMA.hash] * n,
            "observation": pl.Series(seen).arr.to_list(),
        }
    )  # fmt: skip
    return History(hours, decisions)


@pytest.fixture
def history() -> History:
    return tables()


@pytest.fixture
def folder(tmp_path, history) -> Path:
    export_history(history, tmp_path / "history")
    return tmp_path / "history"


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as refused:
        import_history(folder)
    return str(refused.value)


# ---- there and back


def test_what_is_exported_is_imported_unchanged(folder, history):
    back = import_history(folder)
    assert back.hours.equals(history.hours)
    assert back.decisions.equals(history.decisions)
    assert back.hours.schema == history.hours.schema


def test_the_hours_are_plain_text_with_a_header_that_anybody_can_make(folder):
    head = (folder / "hours.csv").read_text(encoding="utf-8").splitlines()[:2]
    needed = [name for name, column in HOURS.columns.items() if column.required]
    assert head == [",".join(needed), "acct/m0,0,10,3,0,40000,0.0,500,0,0,0,0,0,200000,5000000"]


def test_columns_are_found_again_by_item_day_and_tick_in_whatever_order_the_campaigns_stand(folder, history):
    history.hours.sort(["day", "tick", "item"], descending=[False, False, True]).write_csv(
        folder / "hours.csv"
    )
    clicks = cube(import_history(folder).hours, "clicks", np.array([10, 12]), "tick", TICKS)
    assert clicks.shape == (ITEMS, 2, TICKS)
    assert clicks[1, 1, 23:25].tolist() == [120, 121]


def test_calibration_arrays_are_in_currency_units(history):
    told = hours_of(history.hours, np.array([10, 11, 12]))
    assert told.log_bid == pytest.approx(np.log(0.04))
    # Item 1, day 11, evening: 111 clicks of 30,001 micros.
    assert told.cost[1, 1, 30] == pytest.approx(111 * 0.030001)
    assert told.target_cpa.tolist() == [0.2, 0.3]
    assert told.weekday.tolist() == [3, 4, 5]


# ---- the contract


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("cost_micros", "-1", "-1, expected at least 0"),
        ("clicks", "-3", "-3, expected at least 0"),
        ("bid_micros", "0", "0, expected at least 1"),
        ("tick", "48", "48, expected 0 to 47"),
        ("weekday", "7", "7, expected 0 to 6"),
        ("day", "-1", "-1, expected at least 0"),
        ("target_cpa_micros", "0", "0, expected at least 1"),
        ("budget_micros", "0", "0, expected at least 1"),
        ("conversions", "-1", "-1, expected at least 0"),
        ("move", "11.5", "11.5, expected -10 to 10"),
        ("move", "nan", "'nan', expected a number"),
        ("move", "inf", "'inf', expected a number"),
        ("move", "up", "'up', expected a number"),
        ("move", "", "missing, expected a number"),
        ("campaign", "", "missing, expected a name"),
        ("clicks", "", "missing, expected a whole number"),
        ("bid_micros", "many", "'many', expected a whole number"),
        ("impressions", "3.5", "'3.5', expected a whole number"),
        ("eligible", "99999999999999999999", "'99999999999999999999', expected a whole number"),
    ],
)
def test_an_impossible_cell_is_refused_by_file_line_and_column(folder, history, column, cell, said):
    # Row 77 below the header is line 79 of the file.
    assert rewritten(folder, 79, column, cell) == f"{folder / 'hours.csv'}, line 79, {column}: {said}."


def rewritten(folder: Path, line: int, column: str, cell: str) -> str:
    """What is said of the history with one cell of its file changed."""
    path = folder / "hours.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[line - 1].split(",")
    cells[lines[0].split(",").index(column)] = cell
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return refusal(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",5000000", "", ", line 30, budget_micros: missing, expected a whole number."),
        (",5000000", ",5000000,7", ", line 30: 16 columns, expected the header's 15."),
        ("acct", '"acct', ", line 30: a quote that is not closed in its line, expected a header with campaign, "),
        ("acct", "acct\udcff", ", line 30: byte 5 is no UTF-8 text, expected a header with campaign, "),
    ],
)  # fmt: skip
def test_a_row_that_is_no_row_of_the_table_is_refused_by_file_and_line(folder, old, new, said):
    path = folder / "hours.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[29] = lines[29].replace(old, new)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    assert refusal(folder).startswith(f"{path}{said}")


def test_an_empty_line_is_refused_by_file_and_line(folder):
    path = folder / "hours.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:29], "", *lines[29:]]) + "\n", encoding="utf-8")
    assert refusal(folder) == f"{path}, line 30, campaign: missing, expected a name."


def test_a_header_without_rows_is_refused_by_file(folder):
    path = folder / "hours.csv"
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    assert refusal(folder) == f"{path} holds no half hours below its header."


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("log_prob", 0.1),
        ("log_prob", float("nan")),
        ("log_prob", float("-inf")),
        ("scale", -1.0),
        ("scale", float("nan")),
        ("pace", float("nan")),
        ("move", -1),
        ("decision", -1),
        ("pacer_hash", None),
    ],
)
def test_an_impossible_decision_is_refused_by_file_and_column(folder, history, column, value):
    values = history.decisions[column].to_list()
    values[8] = value
    changed = history.decisions.with_columns(pl.Series(column, values, history.decisions[column].dtype))
    changed.write_parquet(folder / "decisions.parquet")
    sentence = refusal(folder)
    assert str(folder / "decisions.parquet") in sentence
    assert column in sentence


def test_a_decision_that_stands_twice_is_refused_by_file_and_row(folder, history):
    path = folder / "decisions.parquet"
    pl.concat([history.decisions, history.decisions[5:6]]).write_parquet(path)
    assert refusal(folder) == f"{path}, row 6: another row has the same item, day, decision."


@pytest.mark.parametrize("column", [name for name, told in HOURS.columns.items() if told.required])
def test_a_missing_column_of_the_hours_is_refused_by_name(folder, history, column):
    history.hours.drop(column).write_csv(folder / "hours.csv")
    sentence = refusal(folder)
    assert "hours.csv" in sentence
    assert column in sentence


@pytest.mark.parametrize("column", list(DECISIONS.columns))
def test_a_missing_column_of_the_decisions_is_refused_by_name(folder, history, column):
    history.decisions.drop(column).write_parquet(folder / "decisions.parquet")
    sentence = refusal(folder)
    assert "decisions.parquet" in sentence
    assert column in sentence


def test_a_column_that_nobody_asked_for_is_refused(folder, history):
    history.hours.with_columns(pl.lit(1).alias("note")).write_csv(folder / "hours.csv")
    assert "note" in refusal(folder)


def test_a_row_that_stands_twice_is_refused(folder, history):
    pl.concat([history.hours, history.hours[5:6]]).write_csv(folder / "hours.csv")
    sentence = refusal(folder)
    assert "hours.csv" in sentence
    # 288 rows below the header: the second one is line 290.
    assert "line 290, tick: half hour 5 of day 10 of item 0 stands in line 7 already" in sentence


def edited(folder: Path, history: History, line: int, **values: object) -> str:
    """What is said of the history with some values of one line of its file changed."""
    changed = history.hours.with_row_index("line", offset=2).with_columns(
        pl.when(pl.col("line") == line).then(pl.lit(value)).otherwise(pl.col(name)).cast(history.hours.schema[name]).alias(name)
        for name, value in values.items()
    )  # fmt: skip
    changed.drop("line").write_csv(folder / "hours.csv")
    return refusal(folder)


def test_more_clicks_than_impressions_are_refused_by_line(folder, history):
    assert "hours.csv, line 30, clicks: 3 clicks of 2 impressions" in edited(
        folder, history, 30, clicks=3, impressions=2
    )


def test_a_price_above_the_bid_is_refused_by_line(folder, history):
    # Two clicks at a bid of 40,000 cost 80,000 at most, and two more by rounding.
    said = edited(folder, history, 30, clicks=2, impressions=9, cost_micros=80_003)
    assert "line 30, cost_micros: 80003 for 2 clicks, the bid was 40000 a click" in said
    ok = history.hours.with_row_index("line", offset=2).with_columns(
        cost_micros=pl.when(pl.col("line") == 30)
        .then(80_002)
        .otherwise(pl.col("cost_micros"))
        .cast(pl.Int64),
        clicks=pl.when(pl.col("line") == 30).then(2).otherwise(pl.col("clicks")).cast(pl.Int64),
        impressions=pl.when(pl.col("line") == 30).then(9).otherwise(pl.col("impressions")).cast(pl.Int64),
    )
    ok.drop("line").write_csv(folder / "hours.csv")
    assert import_history(folder).hours.height == 288


def test_a_clock_that_runs_backwards_is_refused_by_line(folder, history):
    rows = history.hours
    pl.concat([rows[:6], rows[7:8], rows[6:7], rows[8:]]).write_csv(folder / "hours.csv")
    said = refusal(folder)
    assert (
        "line 9, tick: half hour 6 of day 10 stands after half hour 7 of day 10 of campaign acct/m0" in said
    )
    assert "its clock runs backwards" in said


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (20, "line 22, tick: half hour 21 of day 10 of campaign acct/m0, expected 20"),
        (48, "line 50, tick: half hour 1 of day 11 of campaign acct/m0, expected 0"),
        (47, "line 48, tick: day 10 of campaign acct/m0 ends with half hour 46, expected 47"),
    ],
)
def test_a_hole_inside_a_day_is_refused_by_line(folder, history, gone, said):
    pl.concat([history.hours[:gone], history.hours[gone + 1 :]]).write_csv(folder / "hours.csv")
    sentence = refusal(folder)
    assert said in sentence
    assert "the history has a hole" in sentence


def test_two_currencies_are_refused_by_line(folder, history):
    lines = pl.Series("currency", ["EUR"] * 100 + ["USD"] * 188)
    history.hours.with_columns(lines).write_csv(folder / "hours.csv")
    assert "line 102, currency: USD beside EUR in line 2; a history is kept in one currency" in refusal(
        folder
    )


def test_more_impressions_than_auctions_are_refused_by_line(folder, history):
    said = edited(folder, history, 30, impressions=501)
    assert said.endswith(
        "hours.csv, line 30, impressions: 501 impressions of 500 eligible auctions, expected at most one each."
    )


def test_more_conversions_than_clicks_are_refused_by_line(folder, history):
    # Day 10 of item 0: one click in each half hour from tick 24, which is line 26.
    assert "hours.csv, line 30, conversions: 2 conversions of 1 clicks, expected at most one each" in edited(
        folder, history, 30, conversions=2
    )


def test_more_arrivals_than_clicks_so_far_are_refused_by_line(folder, history):
    # Ticks 24 to 28 of that day, lines 26 to 30, had 5 clicks.
    said = edited(folder, history, 30, arrived=6)
    assert "hours.csv, line 30, arrived: 6 conversions had arrived of the day's 5 clicks so far" in said
    lines = history.hours.with_row_index("line", offset=2)
    five = pl.when(pl.col("line") == 30).then(5).otherwise(pl.col("arrived")).cast(pl.Int64).alias("arrived")
    lines.with_columns(five).drop("line").write_csv(folder / "hours.csv")
    # A correction took them back in the next half hour, and none of them is final: that happens.
    assert import_history(folder).hours["arrived"][28:30].to_list() == [5, 0]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (pl.col("day") == 11, "line 50, day: day 12 of campaign acct/m0 follows day 10, expected 11"),
        (
            (pl.col("day") == 11) & (pl.col("item") == 1),
            "line 194, day: day 12 of campaign acct/m1 follows day 10, expected 11",
        ),
        (
            (pl.col("day") == 10) & (pl.col("item") == 1),
            "line 146, day: campaign acct/m1 begins with day 11, the history with day 10",
        ),
        (
            (pl.col("day") == 12) & (pl.col("item") == 0),
            "line 97, day: campaign acct/m0 ends with day 11, the history with day 12",
        ),
    ],
)
def test_a_missing_day_is_refused_by_line(folder, history, gone, said):
    # 144 half hours of item 0 stand in lines 2 to 145.
    history.hours.filter(~gone).write_csv(folder / "hours.csv")
    assert f"{folder / 'hours.csv'}, {said}" in refusal(folder)


def test_a_file_that_runs_from_the_newest_day_to_the_oldest_is_told_to_be_sorted(folder, history):
    history.hours.sort("item", "day", descending=[False, True], maintain_order=True).write_csv(
        folder / "hours.csv"
    )
    said = refusal(folder)
    assert "line 50, tick: half hour 0 of day 11 stands after half hour 47 of day 12" in said
    assert "sort the file by day and tick" in said


def test_a_day_with_two_weekdays_is_refused_by_line(folder, history):
    # Day 10 is weekday 3; item 1 begins with line 146.
    said = edited(folder, history, 150, weekday=4)
    assert "line 150, weekday: day 10 is weekday 4, and weekday 3 in line 2; a day has one weekday" in said


def test_weekdays_that_do_not_follow_each_other_are_refused_by_line(folder, history):
    # Days 10, 11 and 12 are weekdays 3, 4 and 5; here day 11 is another one for every item.
    other = pl.when(pl.col("day") == 11).then(6).otherwise(pl.col("weekday")).cast(pl.Int64)
    history.hours.with_columns(other.alias("weekday")).write_csv(folder / "hours.csv")
    assert "line 50, weekday: day 11 is weekday 6 after weekday 3 on day 10, expected 4" in refusal(folder)


def test_days_have_the_weekdays_that_the_file_gives_them(folder, history):
    history.hours.with_columns((pl.col("weekday") + 2) % 7).write_csv(folder / "hours.csv")
    assert hours_of(import_history(folder).hours, np.array([10, 11, 12])).weekday.tolist() == [5, 6, 0]


def test_order_values_are_read_where_the_log_has_them(folder, history):
    history.hours.with_columns((pl.col("conversions") * 25_000_000).alias("value_micros")).write_csv(
        folder / "hours.csv"
    )
    told = hours_of(import_history(folder).hours, np.array([10, 11, 12]))
    assert told.worth == pytest.approx(25 * told.conversions)
    assert hours_of(history.hours, np.array([10, 11, 12])).worth is None


@pytest.mark.parametrize("name", ["hours.csv", "decisions.parquet"])
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    assert f"no {name} in {folder}" in refusal(folder)


def test_a_file_that_is_no_table_is_refused(folder):
    (folder / "decisions.parquet").write_bytes(b"not a table")
    assert f"{folder / 'decisions.parquet'} cannot be read" in refusal(folder)


def test_nothing_is_exported_that_breaks_the_contract(tmp_path, history):
    broken = replace(
        history, hours=history.hours.with_columns(pl.lit(-1).cast(pl.Int64).alias("cost_micros"))
    )
    with pytest.raises(BadInput, match="cost_micros"):
        export_history(broken, tmp_path / "history")
    assert not (tmp_path / "history" / "hours.csv").exists()


def test_a_hole_in_the_history_is_told_when_its_days_are_asked_for(history):
    holed = history.hours.filter(~((pl.col("item") == 1) & (pl.col("day") == 11) & (pl.col("tick") == 20)))
    with pytest.raises(BadInput, match="the history has holes: 287 rows of 'clicks', 288 expected"):
        cube(holed, "clicks", np.array([10, 11, 12]), "tick", TICKS)
    assert cube(holed, "clicks", np.array([10, 12]), "tick", TICKS).shape == (2, 2, 48)
    with pytest.raises(BadInput, match="the history has holes"):
        cube(history.hours, "clicks", np.array([10, 13]), "tick", TICKS)


# ---- hours alone


def test_hours_alone_are_read_without_decisions_moves_and_targets(tmp_path, history):
    history.hours.drop("move", "target_cpa_micros").write_csv(tmp_path / "hours.csv")
    told = hours_of(import_reports(tmp_path), np.array([10, 11, 12]))
    assert (told.move == 0.0).all()
    assert told.target_cpa.tolist() == [np.inf, np.inf]
    assert told.read_after is None


def test_hours_say_how_long_after_each_day_its_conversions_were_read(tmp_path, history):
    # Read 6 hours after the end of day 12: 30 after that of day 11.
    later = (12 - pl.col("day")) * 24 + 6
    history.hours.with_columns(later.alias("read_after_hours")).write_csv(tmp_path / "hours.csv")
    told = hours_of(import_reports(tmp_path), np.array([10, 11, 12]))
    assert told.read_after.tolist() == [108, 60, 12]


def test_a_day_that_was_read_at_two_times_is_refused_by_line(tmp_path, history):
    later = pl.when((pl.col("item") == 1) & (pl.col("day") == 11)).then(7).otherwise(6)
    history.hours.with_columns(later.cast(pl.Int64).alias("read_after_hours")).write_csv(
        tmp_path / "hours.csv"
    )
    with pytest.raises(BadInput, match="line 194, read_after_hours: 7 for day 11, and 6 in line 50"):
        import_reports(tmp_path)


def test_learning_from_a_history_needs_conversions_that_are_final(folder, history):
    history.hours.with_columns(pl.lit(6).alias("read_after_hours")).write_csv(folder / "hours.csv")
    assert "line 1: unknown or repeated column 'read_after_hours'" in refusal(folder)


# ---- off-policy use


def episodes(history: History, pacer: str = PACER) -> EpisodeBatch:
    return logged_episodes(
        history, np.array([10, 12]), schema=SCHEMA, mask=move_mask(SCHEMA, line_items=1), pacer_hash=pacer,
        behaviour_hash="incumbent", seed=7, hidden_width=0,
    )  # fmt: skip


def test_logged_days_become_episodes_in_order_of_day_and_item(history):
    batch = episodes(history)
    batch.check(observation_size=256, action_size=64)
    assert [(told.day, told.source) for told in batch.provenance] == [
        (d, Source.LOGGED) for d in (10, 10, 12, 12)
    ]
    assert (batch.sources == SOURCES.index(Source.LOGGED)).all()
    assert {told.pacer_hash for told in batch.provenance} == {PACER}
    assert batch.action[0].tolist() == [36, 36, 36, 12, 12, 12]
    assert batch.log_prob[3] == pytest.approx(np.log([0.65, 0.65, 0.65, 0.05, 0.05, 0.05]))
    # The decision rows run by item, then day, then decision: item 1, day 12 begins with row (1 x 3 + 2) x 7 = 35.
    assert batch.observation[3, :, 0].tolist() == [35, 36, 37, 38, 39, 40, 41]


def test_a_logged_days_rewards_add_up_to_its_score(history):
    batch = episodes(history)
    # Item 1, day 12: 24 half hours of 120 clicks and 24 of 121, 12 conversions each half hour: 576 in all.
    clicks = 24 * 120 + 24 * 121
    spend = clicks * 0.030001
    score = 576 * min(1.0, (0.3 * 576 / spend) ** 2)
    assert (batch.spend[3], batch.conversions[3]) == (pytest.approx(spend), 576)
    assert batch.score[3] == pytest.approx(score)
    # As a share of the pacer's projection of 50.
    assert batch.reward[3].sum() == pytest.approx(score / 50)


def test_a_log_made_around_another_pacer_is_refused(history):
    with pytest.raises(
        BadInput, match=f"recorded with pacer_hash {PACER}, the run's is ffff: off-policy use refused"
    ):
        episodes(history, pacer="ffff")


def test_a_log_of_two_pacers_is_refused_even_when_one_is_the_runs(history):
    mixed = history.decisions.with_columns(
        pl.when((pl.col("day") == 12) & (pl.col("decision") == 3))
        .then(pl.lit("ffff"))
        .otherwise("pacer_hash")
        .alias("pacer_hash")
    )
    with pytest.raises(BadInput, match=f"recorded with pacer_hash {PACER}, ffff"):
        episodes(replace(history, decisions=mixed))


def test_a_log_under_another_schema_is_refused(history):
    other = default_schema(profile="wide").hash
    with pytest.raises(BadInput, match=f"recorded with schema_hash {other}, the run's is {SCHEMA.hash}"):
        episodes(
            replace(history, decisions=history.decisions.with_columns(pl.lit(other).alias("schema_hash")))
        )


def test_days_that_the_log_does_not_hold_are_refused(history):
    with pytest.raises(BadInput):
        logged_episodes(
            history, np.array([40]), schema=SCHEMA, mask=move_mask(SCHEMA, line_items=1), pacer_hash=PACER,
            behaviour_hash="incumbent", seed=7, hidden_width=0,
        )  # fmt: skip


def test_an_observation_of_another_width_is_refused(folder, history):
    short = history.decisions.with_columns(pl.col("observation").list.head(255))
    with pytest.raises(BadInput, match="observation"):
        episodes(replace(history, decisions=short))
