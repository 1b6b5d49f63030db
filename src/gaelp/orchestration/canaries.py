"""The canaries of a run: started in a process of their own when a journey opens, read when it is first judged in full.

A process of their own, because compiling them takes as much memory as the journey's own training; and at the opening,
because nothing else of the journey computes then. What they found is kept beside the compiled programs, by
configuration and version of the code, so that they run once for both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from gaelp.core.config import Journey
from gaelp.core.errors import StoreError
from gaelp.core.schema import Schema
from gaelp.learn.algorithm import algorithm_named
from gaelp.learn.probes import canary_key, read_canaries
from gaelp.learn.verify import Canaries
from gaelp.orchestration.opening import agent_config
from gaelp.orchestration.run import Run, compile_cache

PATIENCE_S = 900.0
"""A machine so slow that this is not enough cannot take a journey either."""


class CanaryRun:
    """Canaries of one configuration: found from an earlier run, or under way."""

    def __init__(self, run: Run[Journey]) -> None:
        algorithm, config = algorithm_named(run.config.algorithm), agent_config(run.config)
        actions = run.schema.actions
        self.key = canary_key(algorithm, config, actions)
        self._path = compile_cache().parent / "canaries" / f"{self.key}.json"
        self._log = run.directory / "canaries.log"
        self._process: subprocess.Popen[bytes] | None = None
        if not self._path.exists():
            told = [
                "--algorithm", run.config.algorithm, "--config", json.dumps(asdict(config)),  # type: ignore[call-overload]
                "--actions", str(actions), "--out", str(self._path), "--compile-cache", str(compile_cache()),
            ]  # fmt: skip
            # One arena: the threads of the compiler would each keep what they once needed, a fifth of the whole.
            environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "gaelp.learn.probes", *told],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                )  # fmt: skip

    def result(self) -> Canaries:
        """Wait for them to end. Raises StoreError with what the process said when it left no result."""
        if self._process is not None:
            code = self._process.wait(timeout=PATIENCE_S)
            if code != 0:
                said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise StoreError(
                    f"the canaries ended with code {code}: {said[-1] if said else 'they said nothing'}. "
                    f"All they said is in {self._log}."
                )
        return read_canaries(self._path, self.key)


def canaries_of(run: Run[Journey]) -> Canaries | None:
    """What the run's log tells of its canaries; none before they were read."""
    told = run.found("canaries_run")
    return Canaries.from_payload(told[0]) if told else None


def canaries_for(known: Canaries, config: Journey, schema: Schema) -> Canaries | None:
    """`known`, if these are the canaries of this configuration too; settings change what an agent can learn."""
    key = canary_key(algorithm_named(config.algorithm), agent_config(config), schema.actions)
    return known if known.key == key else None
