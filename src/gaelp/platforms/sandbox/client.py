"""The sandbox seen from gaelp: the platform protocol over an httpx client, and the hand that moves its clock.

It knows paths and bodies. It refuses to retry: whoever calls knows whether the money is still there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import httpx

from gaelp.core.errors import PlatformError
from gaelp.platforms.platform import (
    Account,
    BillLine,
    CampaignSpec,
    CampaignState,
    ReportRow,
    SettledRow,
    times_over_delivery,
)

Answer = dict[str, Any]
"""A parsed JSON object, before its fields become records."""


class SandboxPlatform:
    """An account of the sandbox ad network; `client` has the base URL and the timeout, its owner closes it."""

    is_sandbox: ClassVar[bool] = True

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._over_delivery = self.account().over_delivery

    def account(self) -> Account:
        return Account(**self._get("/account"))

    def worst_case(self, daily_budget_micros: int, days: int = 1) -> int:
        """over_delivery x the budget x days, in micros; lowering a budget changes nothing until tomorrow."""
        return times_over_delivery(daily_budget_micros, days, self._over_delivery)

    def create(self, specs: Sequence[CampaignSpec]) -> None:
        """Create them in one request; after `duplicate name`, identical ones count as created.

        Raises PlatformError when a name is taken by a campaign that differs from its spec.
        """
        refusal = self._try_create(specs)
        if refusal is None:
            return
        if refusal.status_code != 409:
            raise _refused("POST", "/campaigns", refusal)
        standing = {c.name: c for c in self.campaigns("")}
        for spec in specs:
            if spec.name in standing and not standing[spec.name].agrees_with(spec):
                raise PlatformError(
                    f"a campaign named {spec.name!r} exists and differs: {standing[spec.name]}, not {spec}."
                )
        missing = [spec for spec in specs if spec.name not in standing]
        if missing and (refusal := self._try_create(missing)) is not None:
            raise _refused("POST", "/campaigns", refusal)

    def set_budgets(self, budgets: Mapping[str, int]) -> None:
        self._post("/budgets", {"budgets": dict(budgets)})

    def edit_bids(self, bids: Mapping[str, int]) -> None:
        self._post("/bids", {"bids": dict(bids)})

    def pause(self, names: Sequence[str]) -> None:
        self._post("/pause", {"names": list(names)})

    def enable(self, names: Sequence[str]) -> None:
        self._post("/enable", {"names": list(names)})

    def extend(self, names: Sequence[str], last_day: int) -> None:
        self._post("/extend", {"names": list(names), "last_day": last_day})

    def campaigns(self, prefix: str) -> tuple[CampaignState, ...]:
        return tuple(CampaignState(**c) for c in self._get("/campaigns", prefix=prefix)["campaigns"])

    def report(self, prefix: str, day: int, tick: int) -> tuple[ReportRow, ...]:
        answer = self._get("/report", prefix=prefix, day=day, tick=tick)
        return tuple(ReportRow(*row) for row in _rows(answer, ReportRow))

    def settled(self, prefix: str, first_day: int, last_day: int) -> tuple[SettledRow, ...]:
        answer = self._get("/settled", prefix=prefix, first_day=first_day, last_day=last_day)
        return tuple(SettledRow(*row) for row in _rows(answer, SettledRow))

    def bill(self, prefix: str) -> tuple[BillLine, ...]:
        return tuple(BillLine(*row) for row in _rows(self._get("/bill", prefix=prefix), BillLine))

    def step(self, day: int, tick: int) -> Account:
        """Play the half hour (day, tick), where the clock must stand; played already, it is left as it is.

        Returns the account with its clock after it. Raises PlatformError when it is not its turn yet.
        """
        return Account(**self._post("/clock/step", {"day": day, "tick": tick}))

    def skip(self, day: int, tick: int) -> Account:
        """Play every half hour before (day, tick) in one request; nothing once the clock stands there."""
        return Account(**self._post("/clock/skip", {"day": day, "tick": tick}))

    def _try_create(self, specs: Sequence[CampaignSpec]) -> httpx.Response | None:
        """The refusal, or None when all were created."""
        response = self._send("POST", "/campaigns", json={"campaigns": [asdict(spec) for spec in specs]})
        return None if response.status_code == 200 else response

    def _get(self, path: str, **query: str | int) -> Answer:
        response = self._send("GET", path, params=query)
        if response.status_code != 200:
            raise _refused("GET", path, response)
        return response.json()

    def _post(self, path: str, body: dict[str, object]) -> Answer:
        response = self._send("POST", path, json=body)
        if response.status_code != 200:
            raise _refused("POST", path, response)
        return response.json()

    def _send(self, method: str, path: str, **content: object) -> httpx.Response:
        try:
            return self._client.request(method, path, **content)  # type: ignore[arg-type]
        except httpx.TransportError as silent:
            raise PlatformError(
                f"the sandbox did not answer {method} {path} ({type(silent).__name__}: {silent}): "
                "whether it was carried out is unknown."
            ) from silent


def _refused(method: str, path: str, response: httpx.Response) -> PlatformError:
    """The refusal as an error, with the platform's own sentence."""
    try:
        sentence = response.json()["error"]
    except (json.JSONDecodeError, KeyError, TypeError):
        sentence = response.text[:200]
    if response.status_code >= 500:
        return PlatformError(
            f"the sandbox failed on {method} {path} ({response.status_code}): the outcome is unknown."
        )
    return PlatformError(f"the sandbox refused {method} {path} ({response.status_code}): {sentence}")


def _rows(answer: Answer, kind: type) -> list[list[Any]]:
    expected = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    if answer["columns"] != expected:
        raise PlatformError(
            f"the sandbox answered columns {answer['columns']}, expected {expected}: versions differ."
        )
    return answer["rows"]
