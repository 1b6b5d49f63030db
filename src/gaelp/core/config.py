"""The configuration: one frozen model, read from one TOML file; unknown keys are refused with a suggestion.

Money is written in whole units as text or integers ("5.00") and becomes micros here. Nothing that could
cause a spend has a default: phase limits and budgets must be written down by a person.
"""

from __future__ import annotations

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gaelp.core.errors import BadInput, MoneyError, nearest
from gaelp.core.money import parse_money
from gaelp.core.schema import PROFILES, TICKS_PER_DAY


def _micros(value: object) -> int:
    if isinstance(value, str | int):
        try:
            return parse_money(value, "XXX").micros
        except MoneyError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f'write money as text or a whole number, not {value!r}: "5.00"')


Micros = Annotated[int, BeforeValidator(_micros)]
"""An amount in whole currency units in the file, integer micros in the model."""


PositiveMicros = Annotated[Micros, Field(gt=0)]
"""A bid or a budget: nothing cannot be bid or spent."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


ALGORITHMS = ("ppo", "dqn", "sac")
"""What trains the agent; each plays the same 64 joint moves."""


class LearningConfig(_Part):
    """How the agent trains; the engine's contract values are defaults. entropy and min_ess are PPO's alone."""

    learning_rate: float = Field(3e-4, ge=0, le=1, allow_inf_nan=False)
    hidden: tuple[int, ...] = (64, 64)
    entropy: float = Field(0.01, ge=0, le=1, allow_inf_nan=False)
    anchor_kl: float = Field(0.5, ge=0, le=100, allow_inf_nan=False)
    min_ess: float = Field(0.03, ge=0, le=1, allow_inf_nan=False)
    simulated_per_real: int = Field(7, ge=0, le=64)
    shuffle_rewards: bool = False
    """The negative control: rewards are permuted before training, so nothing can be learned."""


class HistoryConfig(_Part):
    """The account's history under our pacer: dual-control warm-up days, then randomised days, split by time."""

    warmup_days: int = Field(ge=4, le=60)
    training_days: int = Field(ge=6, le=365)
    selection_days: int = Field(ge=4, le=365)
    certification_days: int = Field(ge=1, le=365)
    keep: float = Field(0.65, gt=0, lt=1)
    """Probability of the pacer's own move; the other allowed moves share the rest alike (the floor)."""

    @property
    def days(self) -> int:
        return self.training_days + self.selection_days + self.certification_days


class PlatformConfig(_Part):
    """Which ad network. Only the sandbox exists so far."""

    kind: Literal["sandbox"]
    markets: int = Field(8, ge=1, le=8)
    max_bid: PositiveMicros
    """Guard: the most a bid may be, per click."""


class Cadence(_Part):
    """When a phase trains and how: every N episodes, batch_size transitions a minibatch, num_epochs passes."""

    train_every: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    num_epochs: int = Field(ge=1)


class Practice(Cadence):
    """Worlds fitted on the training part of the past; judged in worlds fitted on its selection part."""

    train_every: int = 32
    batch_size: int = 64
    num_epochs: int = 4
    episodes: int = Field(ge=1)
    judging_worlds: int = Field(ge=32, le=65536)
    checkpoint_every: int = Field(25, ge=1)
    """Training calls between two checkpoints; what a crash can cost is re-played exactly."""


class SimulationConfig(Practice):
    """Practice in campaign-days, whose budgets lie between two."""

    budget_low: PositiveMicros
    budget_high: PositiveMicros


class HistoricalConfig(Cadence):
    """The logged episodes of the training days, once, off-policy; judged on the certification days."""

    train_every: int = 16
    batch_size: int = 32
    num_epochs: int = 2


class MoneyLimits(_Part):
    """What a live phase may commit, at the platform's documented worst case. Every field must be written."""

    per_episode: Micros
    per_day: Micros
    total: Micros
    days: int = Field(ge=1)


class RealTestingConfig(Cadence):
    """Shadow days, then campaign-days on a small budget with a control arm run by the pacer."""

    train_every: int = 8
    batch_size: int = 16
    num_epochs: int = 1
    shadow_days: int = Field(ge=0)
    play_days: int = Field(ge=1)
    window_days: int = Field(ge=1)
    daily_budget: PositiveMicros
    agent_campaigns: int = Field(ge=1)
    control_campaigns: int = Field(ge=1)
    limits: MoneyLimits


class RampStepConfig(_Part):
    """One step of the ramp: budget of a campaign-day, days, campaigns by arm, and what it may commit."""

    daily_budget: PositiveMicros
    days: int = Field(ge=1)
    agent_campaigns: int = Field(ge=1)
    control_campaigns: int = Field(ge=1)
    limits: MoneyLimits


class ScaledConfig(Cadence):
    """The ramp: budgets grow step by step, each with its own grant and approval."""

    train_every: int = 16
    batch_size: int = 32
    num_epochs: int = 2
    steps: tuple[RampStepConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> ScaledConfig:
        budgets = [step.daily_budget for step in self.steps]
        if budgets != sorted(budgets):
            raise ValueError(f"the ramp's budgets must not fall, got {budgets} micros")
        return self


class GuardConfig(_Part):
    """Bounds that a live day is held against; a smaller number is tighter, and none may be dropped."""

    max_raise_ratio: float = Field(16.0, ge=1, le=16.0, allow_inf_nan=False)
    """A bid at most so many times the one before it, half an hour earlier; a refused one holds the last."""

    max_velocity_ratio: float = Field(1.5, gt=0, le=2.0, allow_inf_nan=False)
    """A day's spend so far at most this multiple of its plan so far (the platform may over-deliver twofold)."""


class Journey(_Part):
    """What every journey says: its name and seed, how its agent decides and learns, and where it practises."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(7, ge=0, lt=2**31)
    algorithm: str = "ppo"
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    decisions_per_day: int = Field(6, ge=1, le=48)
    profile: str = "focused"
    learning: LearningConfig = LearningConfig()
    simulation: Practice

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"no algorithm {self.algorithm!r}.{nearest(self.algorithm, ALGORITHMS)}")
        if TICKS_PER_DAY % self.decisions_per_day:
            raise ValueError(f"decisions_per_day must divide {TICKS_PER_DAY}, got {self.decisions_per_day}")
        if self.profile not in PROFILES:
            raise ValueError(f"no observation profile {self.profile!r}.{nearest(self.profile, PROFILES)}")
        return self


class JourneyConfig(Journey):
    """A whole journey through the four phases."""

    continue_after_wait: bool = False
    """Lets a journey on a sandbox go on after WAIT. Never after FAIL, and never on a real account."""
    history: HistoryConfig
    platform: PlatformConfig
    guards: GuardConfig = GuardConfig()
    simulation: SimulationConfig
    historical: HistoricalConfig = HistoricalConfig()
    real_testing: RealTestingConfig
    scaled: ScaledConfig

    @model_validator(mode="after")
    def _budgets_in_order(self) -> JourneyConfig:
        if self.simulation.budget_high < self.simulation.budget_low:
            raise ValueError("simulation.budget_high is below simulation.budget_low")
        return self


class AuctionLog(_Part):
    """A recorded auction log and how it is cut into episodes. Money is in the log's own unit, whole."""

    path: str
    format: Literal["ipinyou-theta"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file when the run began: another one is another journey."""
    episode_auctions: int = Field(480, ge=TICKS_PER_DAY)
    budget_fraction: str | None = Field(None, pattern=r"^[0-9]{1,40}(\.[0-9]{1,40}|/0*[1-9][0-9]{0,39})?$")
    """The budget of an episode as a share of what a mean training episode costs whole, such as "1/16"."""
    episode_budget: int | None = Field(None, ge=1)
    max_bid: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_budget(self) -> AuctionLog:
        if (self.budget_fraction is None) == (self.episode_budget is None):
            raise ValueError("give either budget_fraction or episode_budget, and not both")
        return self


class LogPractice(Practice):
    """Practice in worlds fitted to the log."""

    episodes: int = Field(5120, ge=1)
    judging_worlds: int = Field(2048, ge=32, le=65536)


class ReplayConfig(Cadence):
    """Exact replay of the training episodes, so many times over; judged on the certification episodes."""

    train_every: int = 16
    batch_size: int = 32
    num_epochs: int = 2
    passes: int = Field(8, ge=1, le=1000)
    checkpoint_every: int = Field(25, ge=1)


class LogJourneyConfig(Journey):
    """A journey through the first two phases on a recorded auction log; no platform, so no money."""

    name: str = Field("log", min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9-]*$")
    currency: Literal["XXX"] = "XXX"
    """ISO 4217 for no currency: a log's money has a unit of its own, and none is spent."""
    log: AuctionLog
    simulation: LogPractice = LogPractice()
    historical: ReplayConfig = ReplayConfig()


def read_toml(path: Path) -> dict[str, Any]:
    """The plain values of a TOML file. Raises BadInput naming the file."""
    if not path.is_file():
        raise BadInput(f"no configuration file {path}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}.") from error


def build_config(told: dict[str, Any], where: str) -> JourneyConfig:
    """Validate a journey given as plain values. Raises BadInput naming `where` and the first key that is wrong."""
    return _built(JourneyConfig, told, where)


def build_log_config(told: dict[str, Any], where: str) -> LogJourneyConfig:
    """Validate a journey on a log, as `build_config` does any other."""
    return _built(LogJourneyConfig, told, where)


def build_journey(told: dict[str, Any], where: str) -> JourneyConfig | LogJourneyConfig:
    """Validate what a run was entered with: a journey on a log is the one that names a log."""
    return build_log_config(told, where) if "log" in told else build_config(told, where)


AnyJourney = TypeVar("AnyJourney", bound=Journey)


def _built(model: type[AnyJourney], told: dict[str, Any], where: str) -> AnyJourney:
    try:
        return model.model_validate(told)
    except ValidationError as error:
        raise BadInput(_sentence(error, where, model)) from error


def override(
    told: dict[str, Any], assignments: list[str], model: type[Journey] = JourneyConfig
) -> dict[str, Any]:
    """Apply `key=value` settings: a dotted path, or the bare name of a key that exists only once.

    A step of the ramp is reached by its number from 0: `scaled.steps.0.days=3`. Values are read as TOML (`0`, `true`,
    `"text"`); a word that is no TOML value is taken as text, and an amount of money as it is written. Raises BadInput,
    naming all candidates of a bare name that stands in several places.
    """
    out: dict[str, Any] = deepcopy(told)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise BadInput(f"--set takes key=value, got {assignment!r}.")
        paths = _leaves(model, (), out)
        matches = [p for p in paths if ".".join(p) == key] or [p for p in paths if p[-1] == key]
        if not matches:
            raise BadInput(
                f"no setting {key!r}.{nearest(key, ['.'.join(p) for p in paths] + [p[-1] for p in paths])}"
            )
        if len(matches) > 1:
            raise BadInput(f"{key!r} is ambiguous: one of {', '.join('.'.join(p) for p in matches)}.")
        at: Any = out
        for part in matches[0][:-1]:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
            if not isinstance(at, dict | list):
                raise BadInput(
                    f"{key} cannot be set: {part!r} is {at!r} in the configuration, expected a table."
                )
        at[matches[0][-1]] = _value(text)
    return out


def _value(text: str) -> Any:
    try:
        # A number with a point stays as it is written: an amount of money must never pass through a float.
        return tomllib.loads(f"x = {text}", parse_float=str)["x"]
    except tomllib.TOMLDecodeError:
        return text


def _leaves(model: type[BaseModel], path: tuple[str, ...], told: object) -> list[tuple[str, ...]]:
    """Paths of all settings of `model`. Tables in a list count as often as `told` holds them, by number."""
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        inner = told[name] if isinstance(told, dict) and name in told else None
        kind, listed = field.annotation, get_args(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _leaves(kind, (*path, name), inner)
            continue
        found.append((*path, name))
        if listed and isinstance(listed[0], type) and issubclass(listed[0], BaseModel):
            steps = inner if isinstance(inner, list) else []
            for number, step in enumerate(steps):
                found += _leaves(listed[0], (*path, name, str(number)), step)
    return found


def _sentence(error: ValidationError, where: str, model: type[Journey]) -> str:
    # An unknown key is often a missing one misspelt, so it is told first.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = {p[-1] for p in _leaves(model, (), {})} | set(model.model_fields)
        return f"{where}: unknown key {location}.{nearest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"{where}: {location} is missing and has no default."
    said = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], dict):
        return f"{where}: {location + ': ' if location else ''}{said}."
    return f"{where}: {location}: {said} (got {first['input']!r})."
