"""The sandbox over HTTP: JSON in, JSON out, one request at a time.

It knows paths, bodies and status numbers, and holds each of them against `network`. It refuses to know
what an auction is. Every error is `{"error": sentence}`; 404, 409 and 422 mean that nothing was changed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gaelp.core.errors import BadInput
from gaelp.platforms.platform import CampaignSpec
from gaelp.platforms.sandbox.network import Network, Refused

REPORT_COLUMNS = ("campaign", "day", "tick", "bid_micros", "eligible", "impressions", "clicks", "cost_micros")
SPEC_FIELDS = {f.name for f in fields(CampaignSpec)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How the process ends: `stop()` after `idle_s` without a request, or when asked with its `nonce`."""

    nonce: str
    idle_s: float
    stop: Callable[[], None]


def build_app(network: Network, lifetime: Lifetime) -> Starlette:
    """The application around one network. No handler pauses inside, so requests never overlap."""
    last_request_s = time.monotonic()

    def route(method: str, path: str, answer: Callable[[Request, dict[str, object]], object]) -> Route:
        async def endpoint(request: Request) -> Response:
            nonlocal last_request_s
            last_request_s = time.monotonic()
            try:
                body = _parse(await request.body()) if method == "POST" else {}
                told = answer(request, body)
            except Refused as refused:
                return _json({"error": refused.sentence}, refused.status)
            except BadInput as wrong:
                return _json({"error": str(wrong)}, 422)
            return _json(told, 200)

        return Route(path, endpoint, methods=[method])

    def clock(_: Request, __: dict[str, object]) -> object:
        return asdict(network.account())

    def step(request: Request, body: dict[str, object]) -> object:
        network.step(_whole(body, "day"), _whole(body, "tick"))
        return clock(request, body)

    def skip(request: Request, body: dict[str, object]) -> object:
        network.skip(_whole(body, "day"), _whole(body, "tick"))
        return clock(request, body)

    def create(_: Request, body: dict[str, object]) -> object:
        network.create([_spec(entry) for entry in _listed(body, "campaigns")])
        return {}

    def budgets(_: Request, body: dict[str, object]) -> object:
        network.set_budgets(_amounts(body, "budgets"))
        return {}

    def bids(_: Request, body: dict[str, object]) -> object:
        network.edit_bids(_amounts(body, "bids"))
        return {}

    def pause(_: Request, body: dict[str, object]) -> object:
        network.set_status(_names(body), "PAUSED")
        return {}

    def enable(_: Request, body: dict[str, object]) -> object:
        network.set_status(_names(body), "ENABLED")
        return {}

    def extend(_: Request, body: dict[str, object]) -> object:
        network.extend(_names(body), _whole(body, "last_day"))
        return {}

    def campaigns(request: Request, _: dict[str, object]) -> object:
        return {"campaigns": [asdict(state) for state in network.campaigns(_text(request, "prefix"))]}

    def report(request: Request, _: dict[str, object]) -> object:
        rows = network.report(_text(request, "prefix"), _number(request, "day"), _number(request, "tick"))
        return {"columns": [*REPORT_COLUMNS, "conversions_so_far"], "rows": rows}

    def settled(request: Request, _: dict[str, object]) -> object:
        first, last = _number(request, "first_day"), _number(request, "last_day")
        return {
            "columns": [*REPORT_COLUMNS, "conversions"],
            "rows": network.settled(_text(request, "prefix"), first, last),
        }

    def bill(request: Request, _: dict[str, object]) -> object:
        return {
            "columns": ["campaign", "day", "cost_micros", "final"],
            "rows": network.bill(_text(request, "prefix")),
        }

    def health(_: Request, __: dict[str, object]) -> object:
        return {"nonce": lifetime.nonce, "pid": os.getpid()}

    def stop(_: Request, body: dict[str, object]) -> object:
        if body != {"nonce": lifetime.nonce}:
            raise Refused(409, "another process answers on this port than the one to be stopped.")
        lifetime.stop()
        return {}

    @asynccontextmanager
    async def watched(_: Starlette) -> AsyncIterator[None]:
        async def watch() -> None:
            while (left := last_request_s + lifetime.idle_s - time.monotonic()) > 0:
                await asyncio.sleep(left)
            lifetime.stop()

        watcher = asyncio.create_task(watch())
        yield
        watcher.cancel()
        network.close()

    return Starlette(
        routes=[
            route("GET", "/report", report),
            route("POST", "/bids", bids),
            route("POST", "/clock/step", step),
            route("POST", "/clock/skip", skip),
            route("GET", "/account", clock),
            route("GET", "/campaigns", campaigns),
            route("POST", "/campaigns", create),
            route("POST", "/budgets", budgets),
            route("POST", "/pause", pause),
            route("POST", "/enable", enable),
            route("POST", "/extend", extend),
            route("GET", "/settled", settled),
            route("GET", "/bill", bill),
            route("GET", "/health", health),
            route("POST", "/stop", stop),
        ],
        lifespan=watched,
    )


def _json(told: object, status: int) -> Response:
    return Response(json.dumps(told, separators=(",", ":")), status, media_type="application/json")


def _parse(body: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(body)
    except ValueError as broken:
        raise BadInput(f"the body is not JSON: {broken}.") from broken
    if not isinstance(parsed, dict):
        raise BadInput(f"the body must be a JSON object, got {type(parsed).__name__}.")
    return parsed


def _present(body: dict[str, object], key: str) -> object:
    if key not in body:
        raise BadInput(f"the body has no {key!r}.")
    return body[key]


def _whole(body: dict[str, object], key: str) -> int:
    value = _present(body, key)
    if type(value) is not int:
        raise BadInput(f"{key} must be a whole number, got {value!r}.")
    return value


def _listed(body: dict[str, object], key: str) -> list[object]:
    value = _present(body, key)
    if not isinstance(value, list):
        raise BadInput(f"{key} must be a list, got {value!r}.")
    return value


def _names(body: dict[str, object]) -> list[str]:
    names = _listed(body, "names")
    for name in names:
        if not isinstance(name, str):
            raise BadInput(f"names must hold text only, got {name!r}.")
    return names  # type: ignore[return-value]


def _amounts(body: dict[str, object], key: str) -> dict[str, int]:
    amounts = _present(body, key)
    if not isinstance(amounts, dict):
        raise BadInput(f"{key} must be an object of campaign names and micros, got {amounts!r}.")
    return amounts


def _spec(entry: object) -> CampaignSpec:
    if not isinstance(entry, dict) or set(entry) != SPEC_FIELDS:
        raise BadInput(
            f"a campaign needs exactly the fields {', '.join(sorted(SPEC_FIELDS))}, got {entry!r}."
        )
    return CampaignSpec(**entry)


def _text(request: Request, key: str) -> str:
    if key not in request.query_params:
        raise BadInput(f"the query has no {key!r}.")
    return request.query_params[key]


def _number(request: Request, key: str) -> int:
    text = _text(request, key)
    if not text.isascii() or not text.isdigit():
        raise BadInput(f"{key} must be a whole number, got {text!r}.")
    return int(text)
