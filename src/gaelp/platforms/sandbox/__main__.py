"""The sandbox's process: `python -m gaelp.platforms.sandbox --database sandbox.db --seed 7`.

When it listens it prints one line of JSON: port, pid, nonce, seed, markets. It ends when asked, or when
nobody has called for a while.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import sys
from pathlib import Path

import uvicorn

from gaelp.core.errors import GaelpError
from gaelp.platforms.sandbox.network import Network
from gaelp.platforms.sandbox.server import Lifetime, build_app
from gaelp.platforms.sandbox.world import Settings


def main(arguments: list[str]) -> int:
    """Serve until stopped. Returns the exit code: 0, or 2 with one sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m gaelp.platforms.sandbox", description="A sandbox ad network on loopback."
    )
    parser.add_argument(
        "--database", type=Path, required=True, help="SQLite file; created when missing, else resumed"
    )
    parser.add_argument("--seed", type=int, required=True, help="of everything random")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 lets the system choose")
    parser.add_argument(
        "--markets", type=int, default=8, help="how many markets, one campaign of the owner in each"
    )
    parser.add_argument(
        "--idle-s", type=float, default=900.0, help="end after so many seconds without a request"
    )
    parser.add_argument("--state", type=Path, default=None, help="also write that line into this file")
    chosen = parser.parse_args(arguments)
    try:
        network = Network(chosen.database, Settings(seed=chosen.seed, markets=chosen.markets))
        listener = _listen(chosen.port)
    except (GaelpError, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2  # fallback-allowed: the exit code, beside the sentence on standard error
    nonce = secrets.token_hex(8)

    def stop() -> None:
        server.should_exit = True

    app = build_app(network, Lifetime(nonce=nonce, idle_s=chosen.idle_s, stop=stop))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=2)
    )
    told = {"port": listener.getsockname()[1], "pid": os.getpid(), "nonce": nonce, "seed": chosen.seed}
    ready = json.dumps({**told, "markets": chosen.markets}) + "\n"
    if chosen.state is not None:
        _write(chosen.state, ready)
    sys.stdout.write(ready)
    sys.stdout.flush()
    server.run(sockets=[listener])
    return 0


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a reader never meets half a file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def _listen(port: int) -> socket.socket:
    """A listening socket on loopback; calls wait in its queue until the server takes them up."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
