"""Halt: drop the latch, then pause every campaign of a run on its platform, without the orchestrator's help."""

from __future__ import annotations

from dataclasses import dataclass

from gaelp.core.config import Journey
from gaelp.core.errors import PlatformError
from gaelp.orchestration.run import Run, has_a_platform
from gaelp.safety import latch

ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Halted:
    """What was stopped: campaigns that were running and are now read back as paused."""

    paused: tuple[str, ...]
    already_paused: int


def halt(run: Run[Journey], reason: str) -> Halted:
    """Stop a run. The latch drops first: whatever happens to the network after it, nothing raises money again.

    Pausing is tried several times and verified by reading back. Raises PlatformError when campaigns still run.
    """
    latch.drop(run.directory, reason)
    if not has_a_platform(run):
        # On an auction log there is nothing to pause; the latch ends it after its running block of calls.
        run.append("halted", {"reason": reason, "paused": 0})
        return Halted((), 0)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            platform, process = run.open_platform()
            before = platform.campaigns(run.prefix)
            running = tuple(c.name for c in before if c.status == "ENABLED")
            if running:
                platform.pause(running)
            still = [c.name for c in platform.campaigns(run.prefix) if c.status == "ENABLED"]
        except PlatformError as error:
            if attempt == ATTEMPTS:
                raise PlatformError(
                    f"the latch is down, but the platform could not be read back: {error}"
                ) from error
            continue
        if not still:
            run.append("halted", {"reason": reason, "paused": len(running)})
            if run.found("journey_ended"):
                # Nobody else plays on this platform any more; it was started to be read.
                process.stop()
            return Halted(running, len(before) - len(running))
    raise PlatformError(
        f"the latch is down, but {len(still)} campaigns of {run.run_id} still run: {', '.join(still[:3])}."
    )
