"""Made logs in the columns of iPinYou theta: whole prices that wander a little, pCTRs of which a few are large."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaelp.logs.theta import ThetaAuctions


def made_log(auctions: int, seed: int = 1) -> ThetaAuctions:
    """Auctions in order. Prices 1 to 200 around 40; pCTRs log-normal around 1 in 1000, in millionths."""
    rng = np.random.default_rng(seed)
    price = np.clip(np.exp(rng.normal(np.log(40), 0.7, auctions)).astype(np.int64), 1, 200)
    value = np.round(np.clip(np.exp(rng.normal(np.log(1e-3), 1.0, auctions)), 1e-6, 1.0), 6)
    return ThetaAuctions(click=(rng.random(auctions) < value).astype(np.int8), price=price, value=value)


def written(path: Path, log: ThetaAuctions) -> Path:
    """The log as a file, with an exchange in every line."""
    lines = (
        f"{click}\t{price}\t{value:.6f}\t1\n"
        for click, price, value in zip(log.click, log.price, log.value, strict=True)
    )
    path.write_text("".join(lines), encoding="utf-8")
    return path
