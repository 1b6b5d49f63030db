"""The sandbox as a client meets it: what it reports, what it refuses, and what a restart leaves unchanged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platforms.conftest import SMALL
from tests.platforms.in_process import Sandbox, open_sandbox, spec

from gaelp.core.errors import BadInput, PlatformError, StoreError
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.platforms.platform import ReportRow
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.platforms.sandbox.network import Network
from gaelp.platforms.sandbox.world import Settings


def clock(sandbox: Sandbox) -> tuple[int, int]:
    account = sandbox.platform.account()
    return account.day, account.tick


def played_day(sandbox: Sandbox, prefix: str, day: int) -> list[ReportRow]:
    return [row for tick in range(TICKS_PER_DAY) for row in sandbox.platform.report(prefix, day, tick)]


def test_the_account_opens_with_one_campaign_of_its_owner_in_each_market(sandbox):
    account = sandbox.platform.account()
    assert (account.currency, account.time_zone, account.over_delivery) == ("USD", "Etc/UTC", 2)
    assert (account.day, account.tick) == (0, 0)
    campaigns = sandbox.platform.campaigns("acct/")
    assert [(c.name, c.market, c.status, c.created_index) for c in campaigns] == [
        ("acct/m0", "m0", "ENABLED", 0),
        ("acct/m1", "m1", "ENABLED", 1),
    ]
    assert all(c.target_cpa_micros > 0 and c.daily_budget_micros > 0 for c in campaigns)


def test_a_step_plays_its_half_hour_once(sandbox):
    platform = sandbox.platform
    assert platform.step(0, 0).tick == 1
    first = platform.report("acct/", 0, 0)
    assert platform.step(0, 0).tick == 1
    assert platform.report("acct/", 0, 0) == first
    with pytest.raises(
        PlatformError, match=r"day 0 tick 2 cannot be played yet: the clock stands at day 0 tick 1"
    ):
        platform.step(0, 2)
    assert clock(sandbox) == (0, 1)


def test_skip_stands_where_it_was_asked_to_and_does_not_go_back(sandbox):
    assert sandbox.platform.skip(1, 3).day == 1
    assert clock(sandbox) == (1, 3)
    sandbox.platform.skip(0, 40)
    assert clock(sandbox) == (1, 3)


def test_skipping_a_day_is_stepping_through_it(founded):
    skipped, stepped = founded("skipped.db"), founded("stepped.db")
    skipped.platform.skip(1, 0)
    for tick in range(TICKS_PER_DAY):
        stepped.platform.step(0, tick)
    assert played_day(skipped, "", 0) == played_day(stepped, "", 0)


def test_the_last_half_hour_is_followed_by_midnight(sandbox):
    sandbox.platform.skip(0, 47)
    after = sandbox.platform.step(0, 47)
    assert (after.day, after.tick) == (1, 0)


def test_the_same_seed_and_bids_give_the_same_log_and_another_seed_another(founded, tmp_path):
    one, two = founded("one.db"), founded("two.db")
    other = open_sandbox(tmp_path / "other.db", Settings(seed=12, markets=2))
    for each in (one, two, other):
        each.platform.create([spec("one")])
        each.platform.skip(1, 0)
    assert played_day(one, "one", 0) == played_day(two, "one", 0) != played_day(other, "one", 0)
    other.close()


def test_what_one_campaign_bids_does_not_touch_another_of_its_market(founded):
    calm, loud = founded("calm.db"), founded("loud.db")
    for each, bid in ((calm, 5_000), (loud, 300_000)):
        each.platform.create([spec("x", bid_micros=bid), spec("y")])
        each.platform.skip(1, 0)
    assert played_day(calm, "y", 0) == played_day(loud, "y", 0)
    assert played_day(calm, "x", 0) != played_day(loud, "x", 0)


def test_an_edit_takes_effect_from_the_next_half_hour_on(sandbox):
    platform = sandbox.platform
    platform.create([spec("one")])
    platform.step(0, 0)
    platform.edit_bids({"one": 55_000})
    assert [row.bid_micros for row in platform.report("one", 0, 0)] == [40_000]
    platform.step(0, 1)
    assert [row.bid_micros for row in platform.report("one", 0, 1)] == [55_000]


def test_a_restart_in_the_middle_of_a_day_changes_nothing_that_follows(founded):
    undisturbed, restarted = founded("undisturbed.db"), founded("restarted.db")

    def morning(sandbox: Sandbox) -> None:
        platform = sandbox.platform
        platform.create([spec("one"), spec("two", market="m1"), spec("late")])
        platform.pause(["late"])
        platform.skip(2, 10)
        platform.edit_bids({"one": 70_000})
        platform.set_budgets({"two": 2_000_000})
        platform.skip(2, 17)
        platform.pause(["two"])
        platform.enable(["late"])
        platform.skip(2, 21)
        platform.set_budgets({"two": 1_000_000})

    def evening(sandbox: Sandbox) -> None:
        sandbox.platform.enable(["two"])
        sandbox.platform.skip(6, 0)

    morning(undisturbed)
    evening(undisturbed)
    morning(restarted)
    restarted.close()
    again = founded("restarted.db")
    assert clock(again) == (2, 21)
    evening(again)
    for prefix in ("acct/", "one", "two", "late"):
        assert played_day(again, prefix, 2) == played_day(undisturbed, prefix, 2)
        assert again.platform.settled(prefix, 0, 3) == undisturbed.platform.settled(prefix, 0, 3)
        assert again.platform.bill(prefix) == undisturbed.platform.bill(prefix)


def test_a_paused_campaign_buys_nothing_but_still_hears_of_its_conversions(sandbox):
    platform = sandbox.platform
    platform.create([spec("one", bid_micros=80_000)])
    platform.skip(0, 30)
    platform.pause(["one"])
    platform.skip(1, 0)
    before, after = platform.report("one", 0, 29)[0], [platform.report("one", 0, t)[0] for t in range(30, 48)]
    assert {(row.eligible, row.impressions, row.cost_micros) for row in after} == {(0, 0, 0)}
    assert after[-1].conversions_so_far > before.conversions_so_far
    platform.skip(2, 0)
    assert platform.report("one", 1, 0) == ()


def test_a_campaign_that_starts_at_noon_meets_the_rivals_of_the_morning(founded):
    late, early = founded("late.db"), founded("early.db")
    # One micro a click wins nothing, so the early campaign leaves the morning to its rivals too.
    early.platform.create([spec("one", bid_micros=1)])
    for each in (late, early):
        each.platform.skip(0, 24)
    late.platform.create([spec("one", bid_micros=50_000)])
    early.platform.edit_bids({"one": 50_000})
    for each in (late, early):
        each.platform.skip(1, 0)
    assert late.platform.report("one", 0, 23) == ()
    for tick in range(24, 48):
        assert late.platform.report("one", 0, tick) == early.platform.report("one", 0, tick)


def test_a_campaign_stops_by_itself_after_its_last_day_unless_extended(sandbox):
    platform = sandbox.platform
    platform.create([spec("short", last_day=0), spec("longer", last_day=0)])
    platform.skip(0, 40)
    platform.extend(["longer"], 1)
    platform.skip(3, 0)
    assert {line.day for line in platform.bill("short")} == {0}
    assert {line.day for line in platform.bill("longer")} == {0, 1}
    with pytest.raises(PlatformError, match=r"422.*last_day 2 has gone by, today is day 3"):
        platform.extend(["longer"], 2)


def test_conversions_arrive_over_the_day_and_are_told_again_alike(sandbox):
    platform = sandbox.platform
    platform.create([spec("one", bid_micros=60_000)])
    platform.skip(0, 47)
    first = [platform.report("one", 0, tick)[0] for tick in range(47)]
    platform.skip(4, 5)
    assert [platform.report("one", 0, tick)[0] for tick in range(47)] == first
    told = [row.conversions_so_far for row in played_day(sandbox, "one", 0)]
    assert told == sorted(told)
    settled = platform.settled("one", 0, 0)
    assert [row.tick for row in settled] == list(range(TICKS_PER_DAY))
    assert 0 < told[-1] < sum(row.conversions for row in settled)


def test_a_day_is_settled_when_the_second_day_after_it_has_closed(sandbox):
    platform = sandbox.platform
    platform.skip(2, 47)
    with pytest.raises(PlatformError, match=r"409.*day 0 is not settled before day 3 tick 0.*day 2 tick 47"):
        platform.settled("", 0, 0)
    platform.step(2, 47)
    assert len(platform.settled("", 0, 0)) == 2 * TICKS_PER_DAY
    with pytest.raises(PlatformError, match="409"):
        platform.settled("", 0, 1)


def test_report_settlement_and_bill_agree_on_the_money(sandbox):
    platform = sandbox.platform
    platform.create([spec("one", daily_budget_micros=700_000)])
    platform.skip(5, 0)
    for day in range(3):
        reported = sum(row.cost_micros for row in played_day(sandbox, "one", day))
        settled = sum(row.cost_micros for row in platform.settled("one", day, day))
        billed = [line.cost_micros for line in platform.bill("one") if line.day == day]
        assert [reported] == [settled] == billed


def test_a_bill_is_final_at_three_in_the_morning(sandbox):
    platform = sandbox.platform
    platform.skip(1, 5)
    assert {line.final for line in platform.bill("") if line.day == 0} == {False}
    platform.step(1, 5)
    assert {line.final for line in platform.bill("") if line.day == 0} == {True}
    assert {line.final for line in platform.bill("") if line.day == 1} == {False}


def test_a_half_hour_that_was_not_played_is_not_reported(sandbox):
    with pytest.raises(PlatformError, match=r"409.*day 0 tick 0 has not been played"):
        sandbox.platform.report("", 0, 0)


def test_lowering_a_budget_does_not_lower_the_limit_of_the_day_and_raising_it_does(founded):
    kept, lowered, raised = founded("kept.db"), founded("lowered.db"), founded("raised.db")
    for each, change in ((kept, None), (lowered, 100_000), (raised, 3_000_000)):
        each.platform.create([spec("one", daily_budget_micros=1_000_000, bid_micros=90_000)])
        each.platform.skip(0, 8)
        if change is not None:
            each.platform.set_budgets({"one": change})
        each.platform.skip(2, 0)
    days = [
        {line.day: line.cost_micros for line in each.platform.bill("one")} for each in (kept, lowered, raised)
    ]
    assert days[0][0] == days[1][0] < days[2][0]
    assert days[1][1] <= 2 * 100_000 < days[0][1]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 2_000_000), st.integers(1, 500_000), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_no_sequence_of_edits_spends_past_the_documented_worst_case(tmp_path_factory, changes):
    sandbox = open_sandbox(tmp_path_factory.mktemp("edits") / "sandbox.db", Settings(seed=3, markets=1))
    platform = sandbox.platform
    platform.create([spec("one", daily_budget_micros=500_000)])
    budget, highest, day, tick = 500_000, {0: 500_000}, 0, 0
    for ticks, budget, bid, pauses in changes:
        platform.set_budgets({"one": budget})
        platform.edit_bids({"one": bid})
        (platform.pause if pauses else platform.enable)(["one"])
        highest[day] = max(highest.get(day, 0), budget)
        day, tick = divmod(day * TICKS_PER_DAY + tick + ticks, TICKS_PER_DAY)
        platform.skip(day, tick)
        highest[day] = max(highest.get(day, 0), budget)
    for line in platform.bill("one"):
        assert line.cost_micros <= platform.worst_case(highest[line.day])
    sandbox.close()


def test_the_worst_case_is_over_delivery_times_budget_times_days(sandbox):
    assert sandbox.platform.worst_case(5_000_000) == 10_000_000
    assert sandbox.platform.worst_case(5_000_000, days=3) == 30_000_000
    with pytest.raises(BadInput, match="daily_budget_micros"):
        sandbox.platform.worst_case(0)


def test_creating_the_same_campaign_again_changes_nothing(sandbox):
    platform = sandbox.platform
    platform.create([spec("one")])
    platform.create([spec("one"), spec("two")])
    assert [c.name for c in platform.campaigns("one") if c.name == "one"] == ["one"]
    assert [c.created_index for c in platform.campaigns("two")] == [3]


def test_creating_another_campaign_under_a_taken_name_is_refused_and_creates_nothing(sandbox):
    platform = sandbox.platform
    platform.create([spec("one")])
    with pytest.raises(PlatformError, match="a campaign named 'one' exists and differs"):
        platform.create([spec("new"), spec("one", daily_budget_micros=6_000_000)])
    assert platform.campaigns("new") == ()


def test_the_server_names_the_duplicate(sandbox):
    body = {"campaigns": [asdict(spec("acct/m0"))]}
    answer = sandbox.client.post("/campaigns", json=body)
    assert (answer.status_code, answer.json()) == (409, {"error": "duplicate name: acct/m0."})


def test_a_batch_with_one_wrong_entry_is_refused_whole(sandbox):
    platform = sandbox.platform
    before = platform.campaigns("")
    for call in (
        lambda: platform.edit_bids({"acct/m0": 1_000, "acct/m9": 1_000}),
        lambda: platform.edit_bids({"acct/m0": 1_000, "acct/m1": 0}),
        lambda: platform.set_budgets({"acct/m0": 1_000, "acct/m1": -5}),
        lambda: platform.set_budgets({"acct/m0": 1_000, "acct/m1": 2.5}),
        lambda: platform.set_budgets({"acct/m0": 1_000, "acct/m1": 2**63}),
        lambda: platform.pause(["acct/m0", "nobody"]),
        lambda: platform.create([spec("one"), spec("two", market="m7")]),
        lambda: platform.create([spec("one"), spec("one")]),
    ):
        with pytest.raises(PlatformError, match=r"refused POST /\w+ \(4\d\d\)"):
            call()
    assert platform.campaigns("") == before


def test_an_unknown_campaign_is_refused_with_the_nearest_name(sandbox):
    with pytest.raises(PlatformError, match=r"404.*no campaign named 'acct/m'. Did you mean 'acct/m[01]'\?"):
        sandbox.platform.pause(["acct/m"])


@pytest.mark.parametrize(
    ("method", "path", "content", "complaint"),
    [
        ("POST", "/bids", b"{", "the body is not JSON"),
        ("POST", "/bids", b"[]", "the body must be a JSON object, got list"),
        ("POST", "/bids", b"{}", "the body has no 'bids'"),
        (
            "POST",
            "/bids",
            b'{"bids": {"acct/m0": NaN}}',
            "bid_micros must be a whole number of at least 1, got nan",
        ),
        ("POST", "/bids", b'{"bids": {"acct/m0": true}}', "bid_micros must be a whole number"),
        ("POST", "/pause", b'{"names": [1]}', "names must hold text only"),
        ("POST", "/campaigns", b'{"campaigns": [{"name": "a"}]}', "a campaign needs exactly the fields"),
        ("POST", "/clock/step", b'{"day": 0, "tick": 48}', "tick must be below 48"),
        ("POST", "/clock/skip", b'{"day": -1, "tick": 0}', "day must be a whole number of at least 0"),
        ("GET", "/report?prefix=&day=0", b"", "the query has no 'tick'"),
        ("GET", "/settled?prefix=&first_day=x&last_day=2", b"", "first_day must be a whole number, got 'x'"),
        ("GET", "/settled?prefix=&first_day=2&last_day=1", b"", "first_day 2 lies after last_day 1"),
    ],
)
def test_a_malformed_request_is_refused_with_one_sentence(sandbox, method, path, content, complaint):
    answer = sandbox.client.request(method, path, content=content)
    assert answer.status_code == 422
    assert complaint in answer.json()["error"]


def test_names_with_signs_of_their_own_are_matched_by_prefix_and_not_as_patterns(sandbox):
    platform = sandbox.platform
    platform.create([spec("50% & off/ä"), spec("50x")])
    assert [c.name for c in platform.campaigns("50% &")] == ["50% & off/ä"]
    assert platform.campaigns("%") == ()


def test_no_answer_is_an_error_that_says_the_outcome_is_unknown(sandbox):
    def silence(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/account":
            return sandbox.client.get("/account")
        raise httpx.ReadTimeout("too late", request=request)

    platform = SandboxPlatform(
        httpx.Client(transport=httpx.MockTransport(silence), base_url="http://sandbox")
    )
    with pytest.raises(
        PlatformError, match=r"did not answer POST /bids.*whether it was carried out is unknown"
    ):
        platform.edit_bids({"acct/m0": 1})


def test_an_answer_in_other_columns_is_refused(sandbox):
    def renamed(request: httpx.Request) -> httpx.Response:
        answer = sandbox.client.get(request.url.raw_path.decode()).json()
        return httpx.Response(
            200, json={**answer, "columns": ["campaign"]} if "columns" in answer else answer
        )

    platform = SandboxPlatform(
        httpx.Client(transport=httpx.MockTransport(renamed), base_url="http://sandbox")
    )
    with pytest.raises(PlatformError, match="versions differ"):
        platform.bill("")


def test_one_database_is_played_by_one_process_at_a_time(sandbox, tmp_path):
    with pytest.raises(StoreError, match="in use by another sandbox process"):
        Network(tmp_path / "sandbox.db", SMALL)


def test_a_database_of_another_seed_is_refused(sandbox, tmp_path):
    sandbox.close()
    with pytest.raises(StoreError, match=r"seed=11.*not of.*seed=12"):
        Network(tmp_path / "sandbox.db", Settings(seed=12, markets=2))


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as the header of one" * 20)
    with pytest.raises(StoreError, match="cannot be used as a sandbox database"):
        Network(tmp_path / "text.db", SMALL)
    with pytest.raises(BadInput, match="does the directory exist"):
        Network(tmp_path / "nowhere" / "sandbox.db", SMALL)


def test_a_database_whose_day_was_altered_is_refused(sandbox, tmp_path):
    sandbox.platform.skip(0, 20)
    sandbox.close()
    with closing(sqlite3.connect(tmp_path / "sandbox.db")) as database, database:
        database.execute("UPDATE plays SET clicks = clicks + 1 WHERE tick = 12 AND campaign = 0")
    with pytest.raises(StoreError, match="the database was altered"):
        Network(tmp_path / "sandbox.db", SMALL)
