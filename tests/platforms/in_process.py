"""The sandbox without its process: the same application and client, joined by a transport instead of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from gaelp.platforms.platform import CampaignSpec
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.platforms.sandbox.network import Network
from gaelp.platforms.sandbox.server import Lifetime, build_app
from gaelp.platforms.sandbox.world import Settings

ASGIApp = Callable[..., object]


class AppTransport(httpx.BaseTransport):
    """Hands each request to an ASGI application and waits for its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        sent: list[dict] = []
        scope = {
            "type": "http",
            "method": request.method,
            "path": request.url.path,
            "query_string": request.url.query,
            "headers": [],
        }

        async def receive() -> dict:
            return {"type": "http.request", "body": request.content, "more_body": False}

        async def send(message: dict) -> None:
            sent.append(message)

        self._loop.run_until_complete(self._app(scope, receive, send))
        body = b"".join(message.get("body", b"") for message in sent)
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)

    def close(self) -> None:
        self._loop.close()


def _cannot_stop() -> None:
    raise AssertionError("a sandbox inside a test is not stopped over HTTP")


@dataclass(frozen=True)
class Sandbox:
    """A network on a database file, the client in front of it, and how both are put away."""

    network: Network
    client: httpx.Client
    platform: SandboxPlatform

    def close(self) -> None:
        self.client.close()
        self.network.close()


def open_sandbox(path: Path, settings: Settings) -> Sandbox:
    """The sandbox in `path`, founded there when the file is new."""
    network = Network(path, settings)
    app = build_app(network, Lifetime(nonce="test", idle_s=1e9, stop=_cannot_stop))
    client = httpx.Client(transport=AppTransport(app), base_url="http://sandbox")
    return Sandbox(network, client, SandboxPlatform(client))


def spec(name: str, **changes: object) -> CampaignSpec:
    """A campaign of 5.00 a day in market m0 with a bid of 0.04, unless said otherwise."""
    usual = {
        "market": "m0",
        "daily_budget_micros": 5_000_000,
        "bid_micros": 40_000,
        "target_cpa_micros": 120_000,
        "last_day": 1000,
    }
    return CampaignSpec(name=name, **{**usual, **changes})
