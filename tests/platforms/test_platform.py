"""The contract check: the sandbox passes, and each broken plug-in is told what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest
from tests.platforms.in_process import Sandbox, spec

from gaelp.core.errors import BadInput, PlatformError
from gaelp.platforms.platform import Account, CampaignSpec, CampaignState, check_platform, times_over_delivery
from gaelp.platforms.sandbox.client import SandboxPlatform


def test_the_sandbox_holds_the_contract_and_nothing_is_spent(sandbox):
    check_platform(sandbox.platform)
    check_platform(sandbox.platform)
    assert sandbox.platform.bill("check/") == ()
    assert {c.status for c in sandbox.platform.campaigns("check/")} == {"PAUSED"}


def test_in_the_middle_of_a_day_the_contract_holds_too(sandbox):
    sandbox.platform.skip(1, 7)
    check_platform(sandbox.platform)


class Undeclared(SandboxPlatform):
    """Says nowhere whether its money is real."""


class Optimist(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def worst_case(self, daily_budget_micros: int, days: int = 1) -> int:
        return daily_budget_micros


class Careless(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def worst_case(self, daily_budget_micros: int, days: int = 1) -> int:
        return int(2 * abs(daily_budget_micros) * days)


class Everything(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def campaigns(self, prefix: str) -> tuple[CampaignState, ...]:
        return SandboxPlatform.campaigns(self, "")


class Forgetful(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def set_budgets(self, budgets: Mapping[str, int]) -> None:
        """Loses them."""


class OneByOne(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def edit_bids(self, bids: Mapping[str, int]) -> None:
        for name, bid in bids.items():
            SandboxPlatform.edit_bids(self, {name: bid})


class Overwriting(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def create(self, specs: Sequence[CampaignSpec]) -> None:
        taken = {c.name for c in self.campaigns("")}
        SandboxPlatform.create(self, [s for s in specs if s.name not in taken])


class Hasty(SandboxPlatform):
    is_sandbox: ClassVar[bool] = True

    def enable(self, names: Sequence[str]) -> None:
        SandboxPlatform.enable(self, names)
        now = self.account()
        self.step(now.day, now.tick)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Undeclared, "Undeclared must declare `is_sandbox"),
        (
            Optimist,
            r"Optimist.worst_case\(5000000, 30\) must be a whole number of micros and at least 150000000",
        ),
        (Careless, r"Careless.worst_case\(0\) must be refused"),
        (Everything, r"Everything.campaigns\('acct/m0'\) must return exactly the names that begin so"),
        (Forgetful, "budget 3000000, bid 20000 and last_day 1 were set, read back"),
        (OneByOne, r"OneByOne.edit_bids\(\) was refused, yet half of it was applied"),
        (Overwriting, "of another campaign under a taken name must be refused"),
        (Hasty, "the clock moved although nobody asked"),
    ],
)
def test_a_broken_plug_in_is_told_what_is_wrong(
    sandbox: Sandbox, broken: type[SandboxPlatform], complaint: str
):
    with pytest.raises(PlatformError, match=complaint):
        check_platform(broken(sandbox.client))


class RealMoney(SandboxPlatform):
    is_sandbox: ClassVar[bool] = False

    def create(self, specs: Sequence[CampaignSpec]) -> None:
        raise AssertionError("a check must not create campaigns where money is real")


def test_where_money_is_real_the_check_only_reads(sandbox):
    check_platform(RealMoney(sandbox.client))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"market": ""},
        {"daily_budget_micros": 0},
        {"daily_budget_micros": 5.0},
        {"daily_budget_micros": True},
        {"bid_micros": -1},
        {"bid_micros": float("nan")},
        {"target_cpa_micros": 0},
        {"last_day": -1},
    ],
)
def test_a_campaign_that_cannot_be_is_refused_at_birth(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        spec(**{"name": "a", **wrong})


def test_the_clock_of_an_account_stands_within_the_day():
    with pytest.raises(BadInput, match="tick must be below 48"):
        Account(currency="USD", time_zone="Etc/UTC", day=0, tick=48, over_delivery=2)


def test_three_days_at_twice_two_dollars_risk_twelve():
    assert times_over_delivery(2_000_000, 3, 2) == 12_000_000
