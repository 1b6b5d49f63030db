"""A journey on an auction log: is the log still the one it read, was it cut as told, and did no money move?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from gaelp.audit.record import Check, Record, checked, whole_of
from gaelp.core.config import LogJourneyConfig

PARTS = ("training", "selection", "certification")
MONEY = (
    "granted", "reserved", "posted", "released", "breach", "authorisation_wanted", "authorised", "approved",
    "day_played",
)  # fmt: skip
"""Kinds of events that only a journey with a platform may have."""


def log_on_disk(record: Record, config: LogJourneyConfig) -> Check:
    """The file is the one that the run began with, and the one that it says it read."""
    path = Path(config.log.path)
    if not path.is_file():
        return Check("log_on_disk", False, f"there is no file {path} any more, so nothing can be read again.")
    with path.open("rb") as stream:
        now = hashlib.file_digest(stream, "sha256").hexdigest()
    read = [(path.name, now), *((line.where, line.text("sha256")) for line in record.of("log_split"))]
    faults = [
        f"{where} tells {seen[:12]}, the run began with {config.log.sha256[:12]}"
        for where, seen in read
        if seen != config.log.sha256
    ]
    return checked(
        "log_on_disk", faults, f"{path.name} is the log that the run read, {now[:12]}.", {"sha256": now}
    )


def split_in_order(record: Record, config: LogJourneyConfig) -> Check:
    """Training, selection and certification follow each other in whole episodes, and every auction is accounted for."""
    faults: list[str] = []
    said = "the log has not been split yet."
    lines = record.of("log_split")
    for line in lines:
        parts = line.parts("parts")
        length = line.whole("episode_auctions")
        if length != config.log.episode_auctions:
            faults.append(
                f"{line.where} has episodes of {length}, {config.log.episode_auctions} are configured"
            )
        if tuple(part["name"] for part in parts) != PARTS:
            faults.append(f"{line.where} has the parts {', '.join(str(part['name']) for part in parts)}")
        for part in parts:
            auctions, episodes = (
                whole_of(part, "auctions", line.where),
                whole_of(part, "episodes", line.where),
            )
            if auctions != episodes * length or not episodes:
                faults.append(f"{part['name']} has {auctions} auctions in {episodes} episodes of {length}")
        if not 0 <= line.whole("unused_auctions") < length:
            faults.append(
                f"{line.where} leaves {line.whole('unused_auctions')} auctions unused, of {length} one fits"
            )
        counts = ", ".join(f"{part['episodes']} for {part['name']}" for part in parts)
        said = f"in the log's order {counts}, {line.whole('unused_auctions')} auctions unused."
    if len(lines) > 1:
        faults.append(f"the log was split {len(lines)} times")
    return checked("split_in_order", faults, said, {"splits": len(lines)})


def no_money(record: Record) -> Check:
    """Nothing was granted, approved, reserved or spent, and no platform was played on."""
    moved = record.of(*MONEY)
    faults = [f"{line.where} is of a journey with a platform" for line in moved]
    faults += [
        f"{line.where} tells a bill of {line.whole('platform_bill_micros')} micros"
        for line in record.of("journey_ended")
        if line.whole("platform_bill_micros")
    ]
    return checked(
        "no_money", faults, "no platform, no grant, no bill: no money moved.", {"events": len(moved)}
    )
