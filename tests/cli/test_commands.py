"""The command line's manners: help, one JSON object, one sentence for a mistake, and no JAX where none is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.specs.journey import ENTRANCE, TINY

import gaelp
from gaelp.cli.app import app
from gaelp.orchestration.run import begin_run, existing_run
from gaelp.safety.approvals import Binding

COMMANDS = (
    "demo", "run", "plan", "status", "report", "replay", "verify", "validate", "grant", "approve", "halt", "resume",
    "calibrate", "ladder",
)  # fmt: skip
USD = 1_000_000


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


Command = Callable[..., Said]


def environment() -> dict[str, str]:
    told = {key: value for key, value in os.environ.items() if not key.startswith("GAELP_")}
    return {**told, "PYTHONPATH": str(Path(gaelp.__file__).parents[1]), "COLUMNS": "100"}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `gaelp` in an empty directory."""

    def run(*words: str) -> Said:
        done = subprocess.run(
            [*ENTRANCE, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "journey.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture
def entered(tmp_path: Path) -> Path:
    """A home with one run that was entered and has done nothing yet."""
    import tomllib

    begin_run(tmp_path / "runs", tomllib.loads(TINY), "here", "person")
    return tmp_path / "runs"


def assert_one_sentence(said: Said, *parts: str) -> None:
    """Exit code 2, one line on standard error, lower case, with these parts in it."""
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("gaelp: ")
    for part in parts:
        assert part in said.err


# ---- help


def test_the_list_of_commands_tells_each_in_one_whole_line(command: Command) -> None:
    listed = command("--help").out.split("Commands:")[1].strip().splitlines()
    assert [line.split()[0] for line in listed] == [
        "demo", "run", "resume", "plan", "status", "report", "grant", "approve", "halt", "verify", "validate", "ladder",
        "replay", "calibrate",
    ]  # fmt: skip
    assert all(line.endswith(".") and not line.endswith("...") for line in listed), listed


def test_every_promised_command_is_there() -> None:
    assert {c.name or c.callback.__name__ for c in app.registered_commands if c.callback} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example_to_paste(name: str, command: Command) -> None:
    said = command(name, "--help")
    assert said.code == 0
    example = said.out.split("Example:")[1]
    assert re.search(rf"^\s+gaelp {name}\b", example, re.MULTILINE), said.out
    assert "--json" in said.out


# ---- mistakes


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "an unknown key": ("sede = 3\n" + TINY, ("unknown key sede", "Did you mean 'seed'?")),
    "an unknown key in a part": (
        TINY.replace("shadow_days", "shadowy_days"),
        ("real_testing.shadowy_days", "'shadow_days'"),
    ),
    "a missing key": (
        TINY.replace('max_bid = "2.00"\n', ""),
        ("platform.max_bid is missing and has no default",),
    ),
    "a missing limit": (
        TINY.replace('per_day = "50.00", total = "200.00"', 'total = "200.00"'),
        ("limits.per_day is missing",),
    ),
    "no TOML": ("name = [\n", ("is not valid TOML",)),
    "NaN": (
        TINY.replace("learning_rate = 5e-4", "learning_rate = nan"),
        ("learning.learning_rate", "finite"),
    ),
    "infinity": (TINY.replace("learning_rate = 5e-4", "learning_rate = inf"), ("learning.learning_rate",)),
    "NaN as money": (
        TINY.replace('daily_budget = "5.00"', 'daily_budget = "nan"'),
        ("daily_budget", "'nan' is not an amount"),
    ),
    "a float as money": (TINY.replace('max_bid = "2.00"', "max_bid = 2.5"), ("platform.max_bid", "2.5")),
    "negative money": (
        TINY.replace('max_bid = "2.00"', 'max_bid = "-2.00"'),
        ("platform.max_bid", "is negative"),
    ),
    "a negative number": (
        TINY.replace("shadow_days = 1", "shadow_days = -1"),
        ("real_testing.shadow_days", "-1"),
    ),
    "a name that is a path": (TINY.replace('"tiny"', '"../tiny"'), ("name", "'../tiny'")),
    "a bid of nothing": (TINY.replace('max_bid = "2.00"', 'max_bid = "0"'), ("platform.max_bid",)),
    "days that do not divide": (
        "decisions_per_day = 7\n" + TINY,
        ("decisions_per_day must divide 48, got 7",),
    ),
    "an unknown profile": ('profile = "wise"\n' + TINY, ("no observation profile 'wise'", "'wide'")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["plan", "run"])
def test_a_mistake_in_the_configuration_is_one_sentence_and_nothing_is_created(
    name: str, mistake: str, command: Command, tmp_path: Path
) -> None:
    text, parts = MISTAKES[mistake]
    (tmp_path / "journey.toml").write_text(text, encoding="utf-8")
    assert_one_sentence(command(name, "journey.toml"), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["journey.toml"]


SETTINGS: dict[str, tuple[str, ...]] = {
    "sede=3": ("no setting 'sede'", "Did you mean 'seed'?"),
    "seed": ("--set takes key=value, got 'seed'",),
    "=3": ("--set takes key=value",),
    "train_every=8": ("'train_every' is ambiguous", "historical.train_every"),
    "days=3": ("'days' is ambiguous", "real_testing.limits.days, scaled.steps.0.days"),
    "learning_rate=nan": ("learning.learning_rate", "finite"),
    "learning_rate=-1": ("learning.learning_rate", "-1"),
    "seed=-1": ("seed", "-1"),
    "real_testing.limits.total=-5": ("real_testing.limits.total", "is negative"),
    "real_testing.limits.total=nan": ("real_testing.limits.total", "nan"),
    "scaled.steps=[]": ("scaled.steps",),
    "algorithm=dpn": ("no algorithm 'dpn'", "'dqn'"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_mistake_in_a_setting_is_one_sentence_and_nothing_is_created(
    setting: str, command: Command, config: Path
) -> None:
    assert_one_sentence(command("run", config.name, "--set", setting), *SETTINGS[setting])
    assert [path.name for path in config.parent.iterdir()] == [config.name]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("run", "nowhere.toml"), ("no configuration file nowhere.toml",)),
        (("plan", "nowhere.toml"), ("no configuration file nowhere.toml",)),
        (("status",), ("no store at",)),
        (("report",), ("no store at",)),
        (("halt",), ("no store at",)),
        (("resume",), ("no store at",)),
        (("verify",), ("no store at",)),
        (("validate",), ("no store at",)),
        (("approve", "--by", "R. Money"), ("no store at",)),
        (("grant", "--phase", "scaled", "--amount", "1", "--by", "R. Money"), ("no store at",)),
        (("grant", "--phase", "scaled", "--by", "R. Money"), ("--amount",)),
        (("demo", "--seed", "seven"), ("--seed",)),
        (("demo", "--seed", "-7"), ("seed", "-7")),
        (("frobnicate",), ("no such command 'frobnicate'; `gaelp --help` lists the commands",)),
        (("stat",), ("Did you mean 'status'? `gaelp --help` lists the commands",)),
        (("plan",), ("CONFIG", "`gaelp plan --help` shows how")),
        (("demo", "--sed", "3"), ("--seed", "`gaelp demo --help` shows how")),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_nothing_is_created(
    words: tuple[str, ...], parts: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    said = command(*words)
    assert_one_sentence(said)
    assert all(part.lower() in said.err.lower() for part in parts), said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "status"])
def test_a_home_that_is_a_file_is_told_in_one_sentence(name: str, command: Command, config: Path) -> None:
    words = [name, config.name] if name == "run" else [name]
    said = command(*words, "--home", config.name)
    assert said.code == 2
    assert "Traceback" not in said.err
    assert config.name in said.err


def test_a_store_that_is_no_database_is_told_in_one_sentence(command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gaelp.sqlite").write_text("not a database, not even close to one")
    assert_one_sentence(command("status"), "file is not a database")


def test_an_unknown_run_is_told_with_the_nearest_name(command: Command, entered: Path) -> None:
    assert_one_sentence(command("status", "tini-1"), "no run 'tini-1'", "Did you mean 'tiny-1'?")


# ---- a person's answers


@pytest.mark.parametrize(
    ("amount", "part"),
    [
        ("0", "grants nothing"),
        ("0.00", "grants nothing"),
        ("-1", "is negative"),
        ("nan", "is not an amount of money"),
        ("inf", "is not an amount of money"),
        ("1e3", "is not an amount of money"),
        ("1,000", "is not an amount of money"),
        ("0.0000001", "more than six decimals"),
        ("much", "is not an amount of money"),
    ],
)
def test_a_grant_that_is_no_amount_above_0_is_refused(
    amount: str, part: str, command: Command, entered: Path
) -> None:
    said = command("grant", "--phase", "real_testing", f"--amount={amount}", "--by", "R. Money")
    assert_one_sentence(said, part)
    assert existing_run(entered, None).found("granted") == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--phase", "real_testin", "--by", "R. Money"), "Did you mean 'real_testing'?"),
        (("--phase", "simulation", "--by", "R. Money"), "spends money"),
        (("--phase", "scaled", "--by", ""), "names the person"),
    ],
)
def test_a_grant_names_a_phase_that_spends_and_a_person(
    words: tuple[str, ...], part: str, command: Command, entered: Path
) -> None:
    assert_one_sentence(command("grant", "--amount", "5", *words), part)
    assert existing_run(entered, None).found("granted") == []


def test_a_grant_is_exact_to_the_micro_and_told_in_json(command: Command, entered: Path) -> None:
    words = ("--phase", "real_testing", "--by", "R. Money", "--json")
    assert command("grant", "--amount", "0.10", *words).last["available_micros"] == 100_000
    told = command("grant", "--amount", "0.200001", *words).last
    assert (told["granted_micros"], told["available_micros"]) == (200_001, 300_001)


def test_approving_when_nothing_is_asked_is_refused(command: Command, entered: Path) -> None:
    assert_one_sentence(command("approve", "--by", "R. Money"), "tiny-1 waits for no approval")
    assert existing_run(entered, None).store.unused_approvals("tiny-1") == ()


def test_approving_binds_to_exactly_what_is_asked(command: Command, entered: Path) -> None:
    run = existing_run(entered, None)
    asked = {
        "phase": "real_testing",
        "step": 0,
        "limit_micros": 200 * USD,
        "actor_hash": "a1",
        "evidence_hash": "e1",
    }
    run.append("authorisation_wanted", {**asked, "loss_micros": 200 * USD})
    told = command("status", "--json").last
    assert (told["run"], told["phase"], told["state"]) == ("tiny-1", None, "waiting")
    assert "gaelp grant tiny-1 --phase real_testing --amount 200.00" in told["waiting_for"]
    assert "gaelp approve tiny-1" in told["waiting_for"]
    assert_one_sentence(command("approve", "--by", ""), "names the person")
    assert command("approve", "--by", "R. Money", "--json").last["limit_micros"] == 200 * USD
    (approval,) = run.store.unused_approvals("tiny-1")
    assert (approval.binding, approval.by) == (Binding(**asked), "R. Money")
    assert "gaelp approve" not in command("status", "--json").last["waiting_for"]


# ---- what can be lost


def test_plan_tells_the_worst_case_per_hour_day_and_in_all_and_its_sums(
    command: Command, config: Path
) -> None:
    told = command("plan", config.name, "--json").last
    losses = {
        x["step"]: (x["per_episode_micros"], x["per_hour_micros"], x["per_day_micros"], x["in_all_micros"])
        for x in told["losses"]
    }
    # The platform may charge twice a daily budget, all of it within one hour; control campaigns cost like any other.
    assert losses == {
        "real_testing": (10 * USD, 5 * 10 * USD, 5 * 10 * USD, 4 * 50 * USD),
        "scaled, step 1": (10 * USD, 5 * 10 * USD, 5 * 10 * USD, 2 * 50 * USD),
        "scaled, step 2": (14 * USD, 5 * 14 * USD, 5 * 14 * USD, 2 * 70 * USD),
    }
    assert told["loss"] == {
        "per_hour_micros": 70 * USD,
        "per_day_micros": 70 * USD,
        "in_all_micros": (200 + 100 + 140) * USD,
    }
    assert told["granted_by_default_micros"] == 0


def test_plan_shows_a_person_phases_cadences_gates_guards_and_the_loss(
    command: Command, config: Path
) -> None:
    said = command("plan", config.name)
    assert said.code == 0
    for part in ("every 32 episodes", "every 16 episodes", "every 8 episodes", "spend_velocity", "promotion_gate",
                 "70.00 USD", "200.00 USD", "440.00 USD"):  # fmt: skip
        assert part in said.out


OVER: dict[str, tuple[str, ...]] = {
    "real_testing.limits.per_day=49.99": (
        "real_testing.limits.per_day is 49.99 USD",
        "50.00 USD",
        "5 campaigns a day",
    ),
    "real_testing.limits.per_episode=9.999999": (
        "real_testing.limits.per_episode is 9.999999 USD",
        "10.00 USD",
    ),
    "real_testing.limits.total=49": ("real_testing.limits.total is 49.00 USD", "50.00 USD", "first day"),
    "real_testing.limits.days=3": ("real_testing.limits.days is 3", "play_days of 4"),
    "real_testing.control_campaigns=3": ("real_testing.limits.per_day is 50.00 USD", "60.00 USD"),
    "scaled.steps.1.daily_budget=7.01": (
        "scaled.steps.1.limits.per_episode is 14.00 USD",
        "14.02 USD",
        "of 7.01 USD",
    ),
    "scaled.steps.0.days=3": ("scaled.steps.0.limits.days is 2", "days of 3"),
}


@pytest.mark.parametrize("setting", OVER)
@pytest.mark.parametrize("name", ["plan", "run"])
def test_a_journey_whose_worst_case_exceeds_its_own_limits_is_refused_before_it_begins(
    name: str, setting: str, command: Command, config: Path
) -> None:
    assert_one_sentence(command(name, config.name, "--set", setting), config.name, *OVER[setting])
    assert [path.name for path in config.parent.iterdir()] == [config.name]


def test_the_demo_is_held_against_its_limits_too(command: Command, tmp_path: Path) -> None:
    said = command("demo", "--set", "real_testing.daily_budget=6")
    assert_one_sentence(
        said, "the demo's configuration: real_testing.limits.per_episode is 10.00 USD", "12.00 USD"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shipped", ["src/gaelp/cli/demo.toml", "examples/journey.toml"])
def test_a_journey_that_is_shipped_is_within_its_own_limits(shipped: str, command: Command) -> None:
    said = command("plan", str(Path(__file__).parents[2] / shipped))
    assert said.code == 0, said.err


def test_plan_tells_the_bounds_that_guards_hold(command: Command, config: Path) -> None:
    bounds = command("plan", config.name, "--set", "max_raise_ratio=4", "--json").last["guard_bounds"]
    assert bounds == {"max_bid_micros": 2 * USD, "max_raise_ratio": 4.0, "max_velocity_ratio": 1.5}
    assert "at most 4 times" in " ".join(
        command("plan", config.name, "--set", "max_raise_ratio=4").out.split()
    )


# ---- lightness


LIGHT: dict[str, tuple[str, ...]] = {
    "--help": ("--help",),
    "plan": ("plan", "journey.toml", "--json"),
    "status": ("status", "--json"),
    "grant": ("grant", "--phase", "scaled", "--amount", "1", "--by", "R. Money", "--json"),
    "approve": ("approve", "--by", "R. Money"),
    "report": ("report", "--json"),
    "replay": (
        "replay",
        "log.txt",
        "--format",
        "ipinyou-theta",
        "--policy",
        "constant:100",
        "--budget",
        "9",
        "--json",
    ),
    "replay with a ladder": (
        "replay",
        "log.txt",
        "--format",
        "ipinyou-theta",
        "--ladder",
        "--budget-fraction",
        "1/4",
        "--json",
    ),
    "ladder of a log": (
        "ladder",
        "log.txt",
        "--format",
        "ipinyou-theta",
        "--budget-fraction",
        "1/4",
        "--json",
    ),
    "halt": ("halt", "--json"),
    "resume of a halted run": ("resume",),
}
LOOKING = """
import sys
from gaelp.cli.app import main
try:
    main()
finally:
    heavy = [name for name in ("jax", "jaxlib", "equinox", "optax", "torch", "scipy") if name in sys.modules]
    print("HEAVY", *heavy, file=sys.stderr)
"""


@pytest.mark.parametrize("name", LIGHT)
def test_a_command_that_needs_no_jax_never_imports_it(name: str, entered: Path, config: Path) -> None:
    home = config.parent
    (home / "log.txt").write_text("0 30 0.001\n1 20 0.002\n" * 24, encoding="utf-8")
    if name == "resume of a halted run":
        (entered / "tiny-1" / "HALTED").write_text("stop\n")
    done = subprocess.run(
        [sys.executable, "-c", LOOKING, *LIGHT[name]],
        cwd=home, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if name == "halt":
        from gaelp.platforms.sandbox.process import SandboxProcess

        state = json.loads((entered / "tiny-1" / "sandbox" / "sandbox.json").read_text())
        database = entered / "tiny-1" / "sandbox" / "sandbox.db"
        SandboxProcess(port=state["port"], pid=state["pid"], nonce=state["nonce"], database=database).stop()
    assert done.stderr.splitlines()[-1] == "HEAVY", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["--help", "plan", "status", "grant", "approve"])
def test_a_light_command_answers_in_half_a_second(name: str, entered: Path, config: Path) -> None:
    import resource

    def spent_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    costs = []
    for _ in range(3):
        before = spent_s()
        subprocess.run(
            [*ENTRANCE, *LIGHT[name]], cwd=config.parent, env=environment(), capture_output=True, timeout=60
        )
        costs.append(spent_s() - before)
    # Processor time of the quietest of three: what the machine does besides is not the command's.
    assert min(costs) < 0.5


def test_json_is_one_object_in_the_last_line_of_every_light_command(
    command: Command, entered: Path, config: Path
) -> None:
    for words in (LIGHT["plan"], LIGHT["status"], LIGHT["grant"], LIGHT["report"]):
        said = command(*words)
        assert said.code == 0, said.err
        assert isinstance(said.last, dict), words
        assert len(said.out.splitlines()) == 1
    assert set(command("status", "--json").last) >= {"run", "phase", "state", "waiting_for"}
