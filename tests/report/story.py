"""A small run written by hand, event by event: enough for every section of the report, nothing played for real."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from gaelp.safety.approvals import Approval, Binding
from gaelp.safety.ledger import Limits, Request
from gaelp.store.store import Store

JOURNEY: dict[str, object] = {
    "name": "demo", "seed": 8, "continue_after_wait": True,
    "history": {"warmup_days": 7, "training_days": 32, "selection_days": 12, "certification_days": 12},
    "platform": {"kind": "sandbox", "markets": 8, "max_bid": "2.00"},
    "simulation": {"episodes": 96, "judging_worlds": 64, "budget_low": "3.00", "budget_high": "12.00"},
    "real_testing": {
        "shadow_days": 1, "play_days": 2, "window_days": 2, "daily_budget": "5.00",
        "agent_campaigns": 1, "control_campaigns": 1,
        "limits": {"per_episode": "10.00", "per_day": "50.00", "total": "500.00", "days": 30},
    },
    "scaled": {"steps": [{
        "daily_budget": "5.00", "days": 1, "agent_campaigns": 1, "control_campaigns": 1,
        "limits": {"per_episode": "10.00", "per_day": "80.00", "total": "320.00", "days": 4},
    }]},
}  # fmt: skip
UNTRAINED, FIRST, SECOND = "a" * 64, "b" * 64, "c" * 64
LIMITS = Limits(per_episode_micros=10_000_000, per_day_micros=50_000_000, total_micros=500_000_000, days=30)


class StoppedClock:
    """Stands still."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, 9, tzinfo=UTC)


class Story:
    """Writes one run's events; each method is something that happens."""

    def __init__(self, store: Store, run_id: str = "demo-1", journey: Mapping[str, object] = JOURNEY) -> None:
        self.store, self.run_id = store, run_id
        self.calls = 0
        store.create_run(run_id, {"journey": journey})

    def tell(self, kind: str, **payload: object) -> int:
        with self.store.transaction(self.run_id) as tx:
            return tx.append(kind, payload)

    def fit(self) -> None:
        self.tell(
            "day_played",
            phase="history",
            day=0,
            artifact="x",
            slots=[slot("acct/m0", "incumbent", 3)],
            refusals=[],
            tripped=None,
        )
        told = {"estimate": 0.16, "low": 0.11, "high": 0.21}
        self.tell(
            "pacer_certified", hash="p1", artifact="x", days=[0, 1], params={}, tuning_scores=[], fatigue=told
        )
        self.tell(
            "history_exported",
            rows=48,
            decisions=7,
            pacer_hash="p1",
            first_day=0,
            last_day=0,
            owner_spend_micros=3_000_000,
            campaigns=1,
        )
        line = {"name": "win_rate", "fitted": 0.19, "held_out": 0.2, "low": 0.17, "high": 0.21}
        self.tell(
            "fidelity", verdict="PASS", rule="fidelity_gate", reason="the later days are usual ones.", surprise=0.4,
            fitted_days=32, held_out_days=12, conversions=900,
            lines=[
                line | {"identified": True, "within": True},
                line | {"name": "cost_per_click", "held_out": 0.3, "identified": True, "within": False},
            ],
        )  # fmt: skip
        fit = {"days": 32, "fatigue": told}
        self.tell(
            "worlds_fitted",
            training=fit,
            selection=fit | {"days": 12},
            retuned_hash="p2",
            retuned_params={},
            tuning_scores=[],
        )

    def begin(self, phase: str) -> None:
        self.tell("phase_began", name=phase, train_every=32, batch_size=64, num_epochs=4)

    def train(
        self, phase: str, *, before: str, after: str, change: float, gain: float = 0.0, episodes: int = 32
    ) -> None:
        self.calls += 1
        self.tell(
            "played", phase=phase, source="simulated", episodes=32, seed=1, actor_hash=before,
            mean_score=30.0, mean_spend=5.0, mean_gain=gain,
        )  # fmt: skip
        self.tell(
            "trained", phase=phase, episodes=episodes, train_every=32, call=self.calls, entropy_share=0.9,
            weight_change={"absolute": change, "relative": change / 30}, actor_hash_before=before,
            actor_hash_after=after,
        )  # fmt: skip

    def judge(
        self, phase: str, *, actor: str, verdict: str = "LEARNING", reason: str = "every requirement is met."
    ) -> None:
        against = {"mean": 0.04, "lower": 0.03, "upper": 0.06, "bound": 0.0, "alpha": 0.0125}
        parts = {
            "mechanism": {
                "ruling": "PASS",
                "reason": "alive.",
                "updates": 36,
                "tensors_without_gradient": [],
                "played_hash": None,
            },
            "paired_return": {
                "ruling": "PASS",
                "reason": "won.",
                "n": 64,
                "comparisons": {"random": against, "pacer": against},
            },
        }
        self.tell(
            "judged", phase=phase, depth="full", call=self.calls, actor_hash=actor, verdict=verdict, reason=reason,
            parts=parts, evidence={}, shares={"agent": 0.95, "pacer": 0.92, "random": 0.86, "retuned": 0.93},
            worlds=64, worlds_lost=0.25,
        )  # fmt: skip

    def promote(self, phase: str, actor: str) -> None:
        self.tell("promoted", phase=phase, actor_hash=actor, checkpoint="x", reason="judging worlds passed.")

    def end(
        self, phase: str, verdict: str = "PASS", reason: str = "it holds.", rule: str = "simulation_gate"
    ) -> None:
        self.tell(
            "phase_ended", name=phase, episodes=0, train_calls=0, verdict=verdict, rule=rule, reason=reason
        )

    def want(self, phase: str, micros: int) -> Binding:
        binding = Binding(actor_hash=FIRST, phase=phase, step=0, limit_micros=micros, evidence_hash="e1")
        self.tell(
            "authorisation_wanted",
            phase=phase,
            step=0,
            limit_micros=micros,
            actor_hash=FIRST,
            evidence_hash="e1",
            loss_micros=micros,
        )
        return binding

    def grant(self, phase: str, micros: int) -> None:
        with self.store.transaction(self.run_id) as tx:
            tx.grant(phase, micros, "R. Money")

    def approve(self, binding: Binding) -> None:
        with self.store.transaction(self.run_id) as tx:
            tx.approve(Approval(binding, "R. Money"))

    def play(self, phase: str, day: int, spent: Mapping[str, int], refusals: tuple[str, ...] = ()) -> None:
        """Reserve 10.00 for each arm and play the day; spent: micros by arm."""
        with self.store.transaction(self.run_id) as tx:
            for arm in spent:
                intent = f"{phase}/d{day}/{arm}/0-m0"
                assert tx.reserve(
                    LIMITS, Request(intent=intent, phase=phase, day=day, episode=intent, micros=10_000_000)
                )
        slots = [
            slot(f"{phase}/d{day}/{arm}/0-m0", arm, 0) | {"spend_micros": x, "step_spend_micros": [x]}
            for arm, x in spent.items()
        ]
        self.tell(
            "day_played",
            phase=phase,
            day=day,
            artifact="x",
            slots=slots,
            refusals=list(refusals),
            tripped=None,
            step=0,
            actor_hash=FIRST,
        )

    def settle(self, phase: str, day: int, spent: Mapping[str, int], shares: Mapping[str, float]) -> None:
        """The final bill and the day's scores by arm."""
        with self.store.transaction(self.run_id) as tx:
            for arm, micros in spent.items():
                tx.resolve(f"{phase}/d{day}/{arm}/0-m0", micros)
        self.tell(
            "episodes_settled", phase=phase, day=day, artifact="x",
            episodes=[
                {"campaign": f"{phase}/d{day}/{arm}/0-m0", "arm": arm, "spend_micros": spent[arm],
                 "conversions": 10.0, "score": 9.0, "share": share}
                for arm, share in shares.items()
            ],
        )  # fmt: skip

    def compare(self, phase: str, low: float, high: float) -> None:
        self.tell(
            "arms_compared",
            phase=phase,
            agent_mean=1.0,
            control_mean=1.1,
            pairs=2,
            difference=(low + high) / 2,
            low=low,
            high=high,
        )

    def finish(self, bill: int) -> None:
        self.tell("journey_ended", platform_bill_micros=bill, reached_end=True, reason="")


def slot(label: str, arm: str, units: int) -> dict[str, object]:
    """A campaign-day that spent `units` whole units in one step."""
    micros = units * 1_000_000
    return {
        "campaign": label, "arm": arm, "item": 0, "budget_micros": 5_000_000, "moves": [36],
        "step_spend_micros": [micros], "spend_micros": micros, "impressions": 100, "clicks": 10,
    }  # fmt: skip


def whole_journey(store: Store) -> Story:
    """Simulation with two calls and a promotion, then two live days: agent 2.00 and 3.00, control 1.00 and 1.50."""
    story = Story(store)
    story.fit()
    story.begin("simulation")
    story.train("simulation", before=UNTRAINED, after="x", change=0.2, gain=-0.05)
    story.train("simulation", before="x", after=FIRST, change=0.4, gain=0.01)
    story.judge("simulation", actor=FIRST)
    story.promote("simulation", FIRST)
    story.end("simulation")
    story.begin("real_testing")
    binding = story.want("real_testing", 40_000_000)
    story.grant("real_testing", 40_000_000)
    story.approve(binding)
    for day, (agent, control) in {10: (2_000_000, 1_000_000), 11: (3_000_000, 1_500_000)}.items():
        spent = {"agent": agent, "control": control}
        story.play("real_testing", day, spent, refusals=("tick 3: too high",) if day == 10 else ())
        story.settle("real_testing", day, spent, {"agent": 1.0, "control": 1.25 if day == 10 else 0.5})
    story.compare("real_testing", -0.3, 0.4)
    story.end("real_testing", "WAIT", "live statistical gates are not built yet.", "live_gate")
    story.finish(7_500_000)
    return story
