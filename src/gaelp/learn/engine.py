"""The training engine: it takes settled episodes and either trains on them or says why it will not.

It owns the agent's state and nothing else: it plays no episode, keeps no log and knows no platform.
"""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import structlog
from numpy.typing import NDArray

from gaelp.core.episode import SOURCES, EpisodeBatch, Source
from gaelp.core.errors import BadInput, ShapeError, UnusableBatch
from gaelp.core.schema import Actions, AgentSchema
from gaelp.learn.algorithm import Algorithm, Config, State, algorithm_named
from gaelp.learn.experience import PER_TENSOR, Experience, Report
from gaelp.learn.export import hash_of
from gaelp.learn.fused import Origin, Practice, fused_rounds
from gaelp.learn.health import units
from gaelp.learn.mechanism import AUDIT_EVERY, Call, Scrutiny, audit
from gaelp.learn.metrics import (
    Change,
    SecondLook,
    SegmentShare,
    TrainingMetrics,
    WeightSnapshot,
    segment_shares,
)
from gaelp.learn.networks import named_arrays, with_named_arrays
from gaelp.learn.normalise import Normaliser, Scaling, unscaled
from gaelp.learn.policies import Policy, SquashedGaussian, act_mode, policy_arrays
from gaelp.learn.strata import effective_sample_share, utilities_of
from gaelp.learn.verify import (
    REFERENCES,
    Canaries,
    Depth,
    Evaluator,
    LearningVerdict,
    Recorded,
    Reload,
    Terms,
    Trail,
    Trials,
    judge_learning,
    random_walks,
)

Arrays = dict[str, NDArray[np.generic]]

SMALLEST_BUCKET, BUCKET_GROWTH = 8, 4
"""Batches are padded to 8, 32, 128, ... episodes, and never to less than before, so that few shapes are compiled."""
MINIBATCH_WIDTH = 64
"""Minibatches are padded to multiples of this, so that phases with smaller ones share one program."""

FALSE_CLAIM = 0.01
"""How far, in nats, a simulated episode's log-probabilities may differ from those of the weights it names."""

RELOAD_OBSERVATIONS = 256
"""Random observations on which weights saved and loaded again must act the same."""

UNLIMITED = np.int32(2**31 - 1)
"""Gradient steps of an ordinary call: as many as the epochs and minibatches make."""

log = structlog.get_logger(__name__)


class RLTrainingEngine:
    """Trains, verifies, saves and restores one agent.

    algorithm: "ppo", "dqn", "sac", or an Algorithm; config: of its config type. learning_rate: overrides
    the one in `config`; none keeps it. normaliser: fitted on pacer episodes (`normalise.fit_normaliser`), or
    none to take observations as they are. hidden_width: H of simulated episodes. canaries: what
    `probes.run_canaries` found for this algorithm and config; without them nothing is LEARNING. clock: seconds,
    for the metrics' wall-clock field only.
    """

    def __init__(
        self,
        config: Config,
        schema: AgentSchema,
        algorithm: str | Algorithm = "ppo",
        learning_rate: float | None = None,
        seed: int = 7,
        evaluator: Evaluator | None = None,
        canaries: Canaries | None = None,
        *,
        hidden_width: int = 0,
        normaliser: Normaliser | None = None,
        terms: Terms = Terms(),  # noqa: B008  frozen, so one for all is right
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.algorithm = algorithm if isinstance(algorithm, Algorithm) else algorithm_named(algorithm)
        if type(config) is not self.algorithm.config_type:
            raise BadInput(
                f"config is a {type(config).__name__}, {self.algorithm.name!r} takes a "
                f"{self.algorithm.config_type.__name__}."
            )
        self.schema = schema
        self.config = config if learning_rate is None else _with(config, learning_rate=learning_rate)
        self.hidden_width = hidden_width
        self.evaluator = evaluator
        self.canaries = canaries
        self.terms = terms
        self._clock = clock
        self._coefficients = self.algorithm.coefficients(self.config)
        self._unanchored = self.algorithm.coefficients(_with(self.config, anchor_kl=0.0))
        scaling = unscaled(schema.observation_size, hidden_width) if normaliser is None else normaliser
        self._state = self.algorithm.init(self.config, schema, hidden_width, jax.random.key(seed), scaling)
        self._bucket = SMALLEST_BUCKET
        self._names = tuple(named_arrays(self._state.agent))
        self._initial = self._state.policy
        self._promoted: Policy | None = None
        self._twin: Policy | None = None
        self._looks: dict[str, list[bytes]] = {}
        self._hashes = _hashes(self._state)
        self._trail = Trail(weights_hash=self._hashes.weights, actor_hash=self._hashes.actor)
        self._training = asyncio.Lock()

    @property
    def state(self) -> State:
        """Everything that training carries, as one pytree."""
        return self._state

    @property
    def policy(self) -> Policy:
        """What plays: hand it to `policies.act`, `policies.act_mode`, or back to `train_step` as an anchor."""
        return self._state.policy

    @property
    def initial_policy(self) -> Policy:
        """The untrained agent, which is the certified pacer."""
        return self._initial

    @property
    def trail(self) -> Trail:
        """What the training calls of this phase left behind."""
        return self._trail

    def actor_hash(self) -> str:
        """Identity of what plays; provenance of episodes names it."""
        return self._hashes.actor

    def weights(self) -> Arrays:
        """All weights and scalings by name, for saving; `ExportedPolicy.from_arrays` takes them."""
        return _weights(self._state)

    def snapshot(self) -> WeightSnapshot:
        """Norms, hash and arrays of the weights as they are now."""
        return WeightSnapshot.of(int(self._state.updates), self.weights())

    def begin_phase(self) -> None:
        """Forget the mechanism's trail: what follows is judged by its own training calls."""
        self._trail = self._trail.begin_phase()

    def mark_promoted(self, policy: Policy) -> None:
        """From now on a candidate must not be inferior to `policy`."""
        self._promoted = policy

    def mark_twin(self, policy: Policy) -> None:
        """The same agent trained on shuffled rewards: what it earns is earned without learning."""
        self._twin = policy

    async def train_step(
        self,
        *,
        episode_results: EpisodeBatch,
        batch_size: int = 64,
        num_epochs: int = 4,
        anchor: Policy | None = None,
        scrutiny: Scrutiny = Scrutiny.SAMPLED,
    ) -> TrainingMetrics:
        """Train on these episodes once: num_epochs x ceil(valid transitions / batch_size) gradient steps.

        batch_size counts transitions in a minibatch. anchor: the policy to stay close to, with the
        config's anchor_kl; without one there is no such pull. scrutiny: whether this call is audited in any case;
        a phase's last one should be. Raises UnusableBatch, with the state unchanged, when no gradient may be taken
        from these episodes. Cancelled, it changes nothing.
        """
        if batch_size < 1 or num_epochs < 1:
            raise BadInput(f"batch_size {batch_size} and num_epochs {num_epochs} must both be at least 1.")
        async with self._training:
            # The worker only computes; the state moves here, so a cancelled call leaves it as it was.
            trained = await asyncio.to_thread(
                self._train, episode_results, batch_size, num_epochs, anchor, scrutiny
            )
            metrics = trained.metrics
            # The trail first: it may refuse, and then nothing has moved.
            self._trail = self._trail.after(metrics)
            self._state, self._hashes, self._bucket = trained.state, trained.hashes, trained.bucket
        log.info(
            "trained", weight_change=metrics.weight_change.absolute, loss=metrics.loss, call=metrics.call,
            updates=metrics.updates, transitions=metrics.transitions, actor_hash=metrics.actor_hash_after,
        )  # fmt: skip
        return metrics

    async def train_rounds(
        self, practice: Practice, rounds: int, *, batch_size: int = 64, num_epochs: int = 4
    ) -> list[TrainingMetrics]:
        """Play and train `rounds` times in one compiled call; the metrics of each round, as `train_step` gives them.

        The practice goes on where it stopped and stands afterwards where as many calls of its `play` would have
        left it. Nothing is looked at a second time (learn/mechanism.py): a call's batch never leaves the program, so
        these rounds alone can be no LEARNING. Raises UnusableBatch, with engine and practice unchanged, when any round
        may not count.
        """
        if batch_size < 1 or num_epochs < 1 or rounds < 1:
            raise BadInput(
                f"rounds {rounds}, batch_size {batch_size} and num_epochs {num_epochs} must be at least 1."
            )
        if self.hidden_width:
            raise BadInput(
                f"this engine sees {self.hidden_width} hidden numbers of its episodes; a practice hides none."
            )
        async with self._training:
            trained, carry = await asyncio.to_thread(
                self._train_rounds, practice, rounds, batch_size, num_epochs
            )
            trail = self._trail
            for each in trained:
                trail = trail.after(each.metrics)
            practice.go_on(carry, rounds)
            self._state, self._hashes, self._trail = trained[-1].state, trained[-1].hashes, trail
        metrics = [each.metrics for each in trained]
        log.info(
            "trained_rounds", rounds=rounds, call=metrics[-1].call, actor_hash=metrics[-1].actor_hash_after
        )
        return metrics

    def _train_rounds(
        self, practice: Practice, rounds: int, batch_size: int, num_epochs: int
    ) -> tuple[list[_Trained], Any]:
        began = self._clock()
        found = fused_rounds(
            self._state, practice.under_way(), np.int32(practice.rounds), self._unanchored, np.int32(num_epochs),
            np.int32(batch_size), UNLIMITED, Origin.of(practice.environments, practice.steps),
            rollout=practice.rollout, key_of=practice.key_of, update=self.algorithm.update, rounds=rounds,
            width=_width(batch_size),
        )  # fmt: skip
        host = jax.device_get(found._replace(state=None, carry=None))
        seconds = (self._clock() - began) / rounds
        calls = int(self._state.calls)
        before, trained = self._hashes, []
        for i in range(rounds):
            report, agent, policy, hidden = jax.tree.map(
                lambda x, i=i: x[i], (host.report, host.agent, host.policy, host.hidden_scaling)
            )
            after = _hashes_of(agent, policy, hidden)
            asked = _Asked(
                calls + i + 1,
                int(host.transitions[i]),
                int(host.transitions[i]),
                batch_size,
                num_epochs,
                _rate(self._unanchored),
            )
            metrics = self._metrics(
                report,
                asked,
                before,
                after,
                {"0": SegmentShare(1.0, 1.0)},
                float(host.mean_reward[i]),
                seconds,
            )
            metrics = replace(metrics, world_seeds=((practice.seed, practice.seed + practice.environments),))
            trained.append(_Trained(found.state, after, metrics, self._bucket))
            before = after
        return trained, found.carry

    def _train(
        self,
        batch: EpisodeBatch,
        batch_size: int,
        num_epochs: int,
        anchor: Policy | None,
        scrutiny: Scrutiny,
    ) -> _Trained:
        began = self._clock()
        schema, algorithm = self.schema, self.algorithm
        # A Gaussian's raw residuals may lie beyond the bound, the environment cuts them; a squashed one's cannot.
        squashes = isinstance(self._state.policy, SquashedGaussian)
        batch.check(
            observation_size=schema.observation_size,
            action_size=schema.action_size,
            actions=schema.actions,
            bound=schema.bound if squashes else math.inf,
        )
        host = batch.to_numpy()
        bucket = self._bucket
        while bucket < host.episodes:
            bucket *= BUCKET_GROWTH
        call = Call(
            state=self._state,
            experience=self._experience(host, bucket),
            anchor=self._state.policy if anchor is None else anchor,
            coefficients=self._unanchored if anchor is None else self._coefficients,
            num_epochs=np.int32(num_epochs),
            batch_size=np.int32(batch_size),
            width=_width(batch_size),
        )
        state, report = algorithm.update(
            call.state, call.experience, call.anchor, call.coefficients, call.num_epochs, call.batch_size, UNLIMITED,
            width=call.width,
        )  # fmt: skip
        fetched: Report = jax.device_get(report)
        hashes = _hashes(state)
        simulated = host.sources == SOURCES.index(Source.SIMULATED)
        asked = _Asked(
            int(state.calls),
            host.transitions,
            int(host.valid[simulated].sum()),
            batch_size,
            num_epochs,
            _rate(call.coefficients),
        )
        shares = segment_shares(host.segment, host.weight, host.valid)
        reward = float(host.reward[host.valid].mean(dtype=np.float64))
        metrics = self._metrics(fetched, asked, self._hashes, hashes, shares, reward, self._clock() - began)
        metrics = replace(
            metrics,
            world_seeds=_world_seeds(host),
            weight_effective_share=effective_sample_share(host),
            utilities=utilities_of(host),
        )
        if scrutiny is Scrutiny.ALWAYS or self._trail.calls % AUDIT_EVERY == 0:
            metrics = replace(metrics, second_look=self._second_look(call, state, host))
        return _Trained(state, hashes, metrics, bucket)

    def _second_look(self, call: Call, trained: State, host: EpisodeBatch) -> SecondLook:
        found = audit(self.algorithm, call, trained)
        return SecondLook(
            worst=found.worst,
            replayed_hash=found.replayed_hash,
            trained_hash=found.trained_hash,
            faults=found.faults,
            units=units(trained.policy, host.observation[:, :-1][host.valid]),
        )

    def _metrics(
        self,
        report: Report,
        asked: _Asked,
        before: _Hashes,
        after: _Hashes,
        shares: Mapping[str, SegmentShare],
        mean_reward: float,
        seconds: float,
    ) -> TrainingMetrics:
        """What a call tells. Raises UnusableBatch when it must not count."""
        told = dict(zip(self.algorithm.scalars, report.scalars.tolist(), strict=True))
        by_tensor = {
            what: dict(zip(self._names, row, strict=True))
            for what, row in zip(PER_TENSOR, report.per_tensor.tolist(), strict=True)
        }
        _refuse(told, report, self.config)
        moved, norm = by_tensor["weight_change"], by_tensor["weight_norm"]
        return TrainingMetrics(
            algorithm=self.algorithm.name,
            call=asked.call,
            updates=int(told["updates"]),
            transitions=asked.transitions,
            simulated_transitions=asked.simulated_transitions,
            batch_size=asked.batch_size,
            num_epochs=asked.num_epochs,
            learning_rate=asked.learning_rate,
            weight_change=_change(math.hypot(*moved.values()), math.hypot(*norm.values())),
            weight_change_by_tensor={name: _change(moved[name], norm[name]) for name in self._names},
            gradient_norm_before=by_tensor["gradient_norm_before"],
            gradient_norm_after=by_tensor["gradient_norm_after"],
            parts={name: figure for name, figure in told.items() if name not in _OWN_FIELD},
            **{name: told[name] for name in _TOLD},
            segment_shares=shares,
            mean_reward=mean_reward,
            weights_hash_before=before.weights,
            weights_hash_after=after.weights,
            actor_hash_before=before.actor,
            actor_hash_after=after.actor,
            seconds=seconds,
        )

    def _experience(self, host: EpisodeBatch, bucket: int) -> Experience:
        """The batch as `update` takes it, padded to a bucket. Raises UnusableBatch for foreign provenance."""
        b, told = host.episodes, host.provenance
        if len(told) not in (1, b):
            raise UnusableBatch(
                f"provenance: {len(told)} given for {b} episodes, expected one each or one for all."
            )
        for i, provenance in enumerate(told):
            if provenance.schema_hash != self.schema.hash:
                raise UnusableBatch(
                    f"provenance: episode {i} was recorded under schema {provenance.schema_hash!r}, "
                    f"the engine's is {self.schema.hash!r}."
                )
        unknown = (host.sources < 0) | (host.sources >= len(SOURCES))
        if unknown.any():
            raise UnusableBatch(f"sources: episode {int(np.argmax(unknown))} is of no known source.")
        simulated = host.sources == SOURCES.index(Source.SIMULATED)
        hidden = host.hidden
        if hidden.shape[2] != self.hidden_width:
            # Where nothing is simulated there is no truth to see, and the privileged critic is not asked.
            if hidden.shape[2] or simulated.any():
                raise UnusableBatch(
                    f"hidden: width {hidden.shape[2]}, the engine was built for {self.hidden_width}."
                )
            hidden = np.zeros((*hidden.shape[:2], self.hidden_width), np.float32)
        mine = np.array([p.actor_hash == self._hashes.actor for p in told])

        def padded(x: NDArray[np.generic], dtype: type) -> NDArray[np.generic]:
            if b == bucket:
                return np.asarray(x, dtype)
            whole = np.zeros((bucket, *x.shape[1:]), dtype)
            whole[:b] = x
            return whole

        # Numbers outside valid transitions may be anything, also NaN, which times zero is still NaN.
        nothing = np.zeros((b, 1), np.bool_)
        seen = np.concatenate([host.valid, nothing], 1) | np.concatenate([nothing, host.valid], 1)

        def wiped(x: NDArray[np.generic], ok: NDArray[np.bool_]) -> NDArray[np.generic]:
            return x if ok.all() else np.where(ok.reshape(ok.shape + (1,) * (x.ndim - 2)), x, 0)

        arrays = {
            "observation": padded(wiped(host.observation, seen), np.float32),
            "mask": padded(host.mask, np.bool_),
            "action": padded(
                wiped(host.action, host.valid),
                np.int32 if self.schema.actions is Actions.MOVES else np.float32,
            ),
            "log_prob": padded(wiped(host.log_prob, host.valid), np.float32),
            "reward": padded(wiped(host.reward, host.valid), np.float32),
            "end": padded(host.end, np.int8),
            "valid": padded(host.valid, np.bool_),
            "weight": padded(host.weight, np.float32),
            "hidden": padded(wiped(hidden, seen), np.float32),
            "simulated": padded(simulated, np.bool_),
            "claimed": padded(np.broadcast_to(mine, (b,)) & simulated, np.bool_),
            "logged": padded(host.sources == SOURCES.index(Source.LOGGED), np.bool_),
        }
        # Compiled calls take arrays of the host as they are; putting them on the device first costs more.
        return Experience(**{name: cast(jax.Array, array) for name, array in arrays.items()})

    async def verify_learning(
        self, depth: Depth = Depth.FULL, played_hash: str | None = None
    ) -> LearningVerdict:
        """Judge the weights as they are now, by the calls since the phase began and by held-out worlds.

        played_hash: of the actor that played the episodes in question, when the caller knows it.
        Asked again in the same state it gives the same answer. Truthy only for LEARNING.
        """
        async with self._training:
            return await asyncio.to_thread(self._verify, depth, played_hash)

    def _verify(self, depth: Depth, played_hash: str | None) -> LearningVerdict:
        # From the arrays themselves and not from what was noted about them: that is what is being asked.
        judged = _hashes(self._state).actor
        trials = None if self.evaluator is None else self._trials(self.evaluator, depth, judged)
        recorded = Recorded(
            look=1 if trials is None else self._look(judged, trials.seeds),
            trail=self._trail,
            judged_hash=judged,
            played_hash=played_hash,
            trials=trials,
            depth=depth,
            canaries=self.canaries,
            reload=_reloaded(self._state.policy, self.schema) if depth is Depth.FULL else None,
        )
        verdict = judge_learning(recorded, self.terms)
        log.info("verified", outcome=str(verdict.outcome), reason=verdict.reason, actor_hash=judged)
        return verdict

    def _look(self, judged: str, seeds: NDArray[np.integer]) -> int:
        """The number of this set of seeds among those that these weights were judged on; asked again, the same."""
        sets = self._looks.setdefault(judged, [])
        if seeds.tobytes() not in sets:
            sets.append(seeds.tobytes())
        return 1 + sets.index(seeds.tobytes())

    def _trials(self, evaluator: Evaluator, depth: Depth, judged: str) -> Trials:
        now, seeds = self._state.policy, evaluator.seeds
        # The places of promoted policy and twin are always filled, so that one compiled evaluation serves all.
        policies = [now, now if self._promoted is None else self._promoted]
        if depth is Depth.FULL:
            policies.append(now if self._twin is None else self._twin)
            start, end = named_arrays(self._initial.actor), named_arrays(now.actor)
            rng = np.random.default_rng(int(judged[:16], 16))
            walks = random_walks(start, end, rng)
            policies += [replace(now, actor=with_named_arrays(now.actor, walk)) for walk in walks]
        stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *policies)
        scores = np.asarray(evaluator.scores(stacked, seeds), np.float64)
        if scores.shape != (len(policies), len(seeds)):
            raise ShapeError(f"evaluator: scores {scores.shape}, expected {(len(policies), len(seeds))}.")
        return Trials(
            seeds=np.asarray(seeds),
            now=scores[0],
            references={n: np.asarray(evaluator.reference(n, seeds), np.float64) for n in REFERENCES},
            promoted=None if self._promoted is None else scores[1],
            twin=scores[2] if depth is Depth.FULL and self._twin is not None else None,
            walks=scores[3:] if depth is Depth.FULL else None,
            standstill=hash_of(named_arrays(now.actor)) == hash_of(named_arrays(self._initial.actor)),
        )

    def save_state(self) -> Arrays:
        """Everything that the next call depends on, as named arrays: restored, it goes on bit by bit the same."""
        saved = {f"state.{name}": array for name, array in named_arrays(self._state).items()}
        saved |= {f"initial.{name}": array for name, array in named_arrays(self._initial).items()}
        if self._promoted is not None:
            saved |= {f"promoted.{name}": array for name, array in named_arrays(self._promoted).items()}
        if self._twin is not None:
            saved |= {f"twin.{name}": array for name, array in named_arrays(self._twin).items()}
        saved["bucket"] = np.asarray(self._bucket, np.int64)
        saved["trail"] = np.frombuffer(self._trail.to_json().encode(), np.uint8)
        saved["schema_hash"] = np.frombuffer(self.schema.hash.encode(), np.uint8)
        return saved

    def load_state(self, saved: Mapping[str, NDArray[np.generic]]) -> None:
        """Take back what `save_state` gave. Raises ShapeError or BadInput, with the state unchanged, when
        something is missing, of another shape or of another schema."""
        for name in ("trail", "schema_hash", "bucket"):
            if name not in saved:
                raise BadInput(f"saved state: {name!r} is missing; it was not written by save_state.")
        schema_hash = saved["schema_hash"].tobytes().decode()
        if schema_hash != self.schema.hash:
            raise BadInput(f"saved state: of schema {schema_hash!r}, the engine's is {self.schema.hash!r}.")

        def part(what: str) -> Arrays:
            return {name[len(what) :]: array for name, array in saved.items() if name.startswith(what)}

        state = with_named_arrays(self._state, part("state."))
        initial = with_named_arrays(self._initial, part("initial."))
        promoted, twin = part("promoted."), part("twin.")
        last = with_named_arrays(self._initial, promoted) if promoted else None
        other = with_named_arrays(self._initial, twin) if twin else None
        trail = Trail.from_json(saved["trail"].tobytes().decode())
        self._state, self._initial, self._promoted, self._trail = state, initial, last, trail
        self._hashes, self._bucket, self._twin = _hashes(state), int(saved["bucket"]), other


@dataclass(frozen=True, slots=True)
class _Hashes:
    """weights: of everything trained. actor: of what plays."""

    weights: str
    actor: str


@dataclass(frozen=True, slots=True)
class _Trained:
    """What a call computed, before the engine takes it over."""

    state: State
    hashes: _Hashes
    metrics: TrainingMetrics
    bucket: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a call was asked to do."""

    call: int
    transitions: int
    simulated_transitions: int
    batch_size: int
    num_epochs: int
    learning_rate: float


def _rate(coefficients: Any) -> float:
    """The learning rate of a call, in the shortest digits that mean the same float32."""
    return float(str(np.float32(coefficients.learning_rate)))


# Scalars that every algorithm reports and that are fields of the metrics; what else it tells is among `parts`.
_TOLD = (
    "loss", "entropy", "entropy_share", "approx_kl", "effective_sample_share", "clipped_mass", "min_update_change",
)  # fmt: skip
_OWN_FIELD = {*_TOLD, "updates", "false_claim"}


def _refuse(told: Mapping[str, float], fetched: Report, config: Config) -> None:
    """Raise UnusableBatch when the call must not count; the caller still holds the old state."""
    if not told["false_claim"] <= FALSE_CLAIM:
        raise UnusableBatch(
            "log_prob: simulated episodes name the current weights as their actor, but their log-probabilities "
            f"are off by up to {told['false_claim']:.4g} (at most {FALSE_CLAIM})."
        )
    if not told["effective_sample_share"] >= config.min_ess:
        raise UnusableBatch(
            f"log_prob: the effective sample is {told['effective_sample_share']:.3g} of the logged transitions, "
            f"below {config.min_ess:g}: the policy is too far from the one that played."
        )
    if not (np.isfinite(fetched.scalars).all() and np.isfinite(fetched.per_tensor).all()):
        raise UnusableBatch(
            "reward: a gradient or a weight became infinite or NaN, the numbers are too large."
        )


def _world_seeds(host: EpisodeBatch) -> tuple[tuple[int, int], ...]:
    """Ranges [low, high) of the worlds of simulated episodes: those of one origin were played on seeds in a row."""
    simulated = SOURCES.index(Source.SIMULATED)
    if len(host.provenance) == 1:
        origins = {host.provenance[0].seed: host.episodes} if (host.sources == simulated).all() else {}
    else:
        origins = Counter(p.seed for p in host.provenance if p.source is Source.SIMULATED)
    return tuple((seed, seed + count) for seed, count in sorted(origins.items()))


def _reloaded(policy: Policy, schema: AgentSchema) -> Reload:
    """Write the policy to bytes, read it back, and ask both the same."""
    written = io.BytesIO()
    np.savez(written, allow_pickle=False, **named_arrays(policy))
    written.seek(0)
    with np.load(written, allow_pickle=False) as read:
        again = with_named_arrays(policy, {name: read[name] for name in read.files})
    rng = np.random.default_rng(RELOAD_OBSERVATIONS)
    seen = rng.standard_normal((RELOAD_OBSERVATIONS, schema.observation_size)).astype(np.float32)
    mask = np.ones((RELOAD_OBSERVATIONS, schema.action_size), np.bool_)
    first, second = (np.asarray(_mode(each, seen, mask)) for each in (policy, again))
    same = (first == second).reshape(RELOAD_OBSERVATIONS, -1).all(axis=1)
    return Reload(asked=RELOAD_OBSERVATIONS, same=int(same.sum()))


_mode = jax.jit(lambda policy, observation, mask: act_mode(policy, observation, mask).action)


def _with(config: Config, **changes: float) -> Config:
    changed: Config = replace(cast(Any, config), **changes)
    return changed


def _change(moved: float, before: float) -> Change:
    return Change(moved, moved / before if before > 0 else 0.0)


def _width(batch_size: int) -> int:
    return -(-batch_size // MINIBATCH_WIDTH) * MINIBATCH_WIDTH


def _arrays_of(agent: eqx.Module, policy: Policy, hidden: Scaling) -> Arrays:
    scaling = {f"hidden_scaling.{name}": array for name, array in named_arrays(hidden).items()}
    return named_arrays(agent) | policy_arrays(policy) | scaling


def _weights(state: State) -> Arrays:
    return _arrays_of(state.agent, state.policy, state.normaliser.hidden)


def _hashes_of(agent: eqx.Module, policy: Policy, hidden: Scaling) -> _Hashes:
    return _Hashes(hash_of(_arrays_of(agent, policy, hidden)), hash_of(policy_arrays(policy)))


def _hashes(state: State) -> _Hashes:
    return _hashes_of(state.agent, state.policy, state.normaliser.hidden)
