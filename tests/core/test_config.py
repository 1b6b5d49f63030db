"""The configuration refuses what it does not know, and nothing that could cause a spend has a default."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from gaelp.core.config import JourneyConfig, build_config, override, read_toml
from gaelp.core.errors import BadInput

Told = dict[str, Any]

LIMITS = {"per_episode": "10.00", "per_day": "50.00", "total": "500.00", "days": 30}
STEP = {
    "daily_budget": "5.00", "days": 4, "agent_campaigns": 5, "control_campaigns": 3,
    "limits": {**LIMITS, "per_day": "80.00"},
}  # fmt: skip
JOURNEY: Told = {
    "name": "walk",
    "history": {"warmup_days": 7, "training_days": 28, "selection_days": 18, "certification_days": 10},
    "platform": {"kind": "sandbox", "max_bid": "2.00"},
    "simulation": {"episodes": 320, "judging_worlds": 64, "budget_low": "3.00", "budget_high": "12.00"},
    "real_testing": {
        "shadow_days": 2, "play_days": 12, "window_days": 4, "daily_budget": "5.00", "agent_campaigns": 3,
        "control_campaigns": 2, "limits": {**LIMITS},
    },
    "scaled": {"steps": [STEP]},
}  # fmt: skip


@pytest.fixture
def told() -> Told:
    return deepcopy(JOURNEY)


def refusal(told: Told) -> str:
    with pytest.raises(BadInput) as refused:
        build_config(told, "walk.toml")
    return str(refused.value)


def test_a_journey_reads_its_money_into_micros(told):
    config = build_config(told, "walk.toml")
    assert config.platform.max_bid == 2_000_000
    assert config.real_testing.limits.per_day == 50_000_000
    assert config.scaled.steps[0].daily_budget == 5_000_000
    assert config.history.days == 28 + 18 + 10


def test_a_phase_trains_at_its_own_cadence_unless_told_otherwise(told):
    config = build_config(told, "walk.toml")
    phases = (config.simulation, config.historical, config.real_testing, config.scaled)
    assert [(p.train_every, p.batch_size, p.num_epochs) for p in phases] == [
        (32, 64, 4),
        (16, 32, 2),
        (8, 16, 1),
        (16, 32, 2),
    ]


def test_a_model_once_built_does_not_change(told):
    config = build_config(told, "walk.toml")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 8


@pytest.mark.parametrize(
    ("part", "key", "sentence"),
    [
        (
            "learning",
            "learning_rat",
            "unknown key learning.learning_rat. Did you mean 'learning_rate'?",
        ),
        ("history", "warmupdays", "unknown key history.warmupdays. Did you mean 'warmup_days'?"),
        ("platform", "maxbid", "unknown key platform.maxbid. Did you mean 'max_bid'?"),
        ("real_testing", "dailybudget", "unknown key real_testing.dailybudget. Did you mean 'daily_budget'?"),
    ],
)
def test_an_unknown_key_is_refused_by_file_with_the_nearest_known_one(told, part, key, sentence):
    told.setdefault(part, {})[key] = 1
    assert refusal(told) == f"walk.toml: {sentence}"


def test_an_unknown_key_at_the_top_and_one_like_nothing_known_are_refused(told):
    assert refusal({**told, "sed": 3}) == "walk.toml: unknown key sed. Did you mean 'seed'?"
    assert refusal({**told, "xyzzy": 3}) == "walk.toml: unknown key xyzzy."


def test_a_misspelt_key_is_told_before_the_one_that_is_missing_for_it(told):
    told["platform"]["maxbid"] = told["platform"].pop("max_bid")
    assert "unknown key platform.maxbid. Did you mean 'max_bid'?" in refusal(told)


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        (("platform",), "max_bid"),
        (("simulation",), "budget_low"),
        (("simulation",), "budget_high"),
        (("real_testing",), "daily_budget"),
        (("real_testing",), "limits"),
        *((("real_testing", "limits"), name) for name in LIMITS),
        *((("scaled", "steps", 0), name) for name in STEP),
        *((("scaled", "steps", 0, "limits"), name) for name in LIMITS),
    ],
)
def test_whatever_may_be_spent_must_be_written_down(told, path, missing):
    part: Any = told
    for key in path:
        part = part[key]
    del part[missing]
    where = ".".join(str(key) for key in (*path, missing))
    assert refusal(told) == f"walk.toml: {where} is missing and has no default."


@pytest.mark.parametrize("value", [5.0, 0.1, float("nan"), True])
def test_money_written_as_a_float_is_refused(told, value):
    told["real_testing"]["daily_budget"] = value
    assert "real_testing.daily_budget" in refusal(told)


@pytest.mark.parametrize("value", ["-5.00", "1e3", "5.0000001", "five", "nan"])
def test_money_that_is_no_plain_amount_is_refused_by_key(told, value):
    told["real_testing"]["limits"]["total"] = value
    sentence = refusal(told)
    assert sentence.startswith("walk.toml: real_testing.limits.total: ")
    assert value in sentence


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("platform", "max_bid"),
        ("simulation", "budget_low"),
        ("real_testing", "daily_budget"),
    ],
)
def test_a_bid_or_a_budget_of_nothing_is_refused(told, part, key):
    told[part][key] = "0.00"
    assert f"{part}.{key}" in refusal(told)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("learning", "learning_rate"),
        ("learning", "entropy"),
        ("history", "keep"),
        ("guards", "max_velocity_ratio"),
        ("guards", "max_raise_ratio"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_number_that_is_none_or_out_of_range_is_refused_by_key(told, part, key, value):
    told.setdefault(part, {})[key] = value
    assert f"walk.toml: {part}.{key}: " in refusal(told)


@pytest.mark.parametrize(("key", "loosest"), [("max_raise_ratio", 16.0), ("max_velocity_ratio", 2.0)])
def test_a_guard_may_be_tightened_and_never_loosened(told, key, loosest):
    for bound in (loosest, 1.0):
        assert getattr(build_config({**told, "guards": {key: bound}}, "walk.toml").guards, key) == bound
    assert f"guards.{key}: " in refusal({**told, "guards": {key: loosest + 0.01}})


def test_a_learning_rate_of_zero_is_a_valid_setting(told):
    assert build_config({**told, "learning": {"learning_rate": 0}}, "walk.toml").learning.learning_rate == 0


@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "sac"])
def test_every_algorithm_is_taken_by_name(told, algorithm):
    assert build_config({**told, "algorithm": algorithm}, "walk.toml").algorithm == algorithm


def test_an_unknown_algorithm_is_refused_by_name(told):
    assert "no algorithm 'pp0'. Did you mean 'ppo'?" in refusal({**told, "algorithm": "pp0"})


def test_a_ramp_whose_budgets_fall_is_refused(told):
    told["scaled"]["steps"] = [STEP, {**STEP, "daily_budget": "4.00"}]
    assert "the ramp's budgets must not fall, got [5000000, 4000000] micros" in refusal(told)


def test_a_budget_range_the_wrong_way_round_is_refused(told):
    told["simulation"]["budget_high"] = "2.00"
    assert "simulation.budget_high is below simulation.budget_low" in refusal(told)


def test_a_ramp_without_steps_is_refused(told):
    told["scaled"]["steps"] = []
    assert "scaled.steps" in refusal(told)


# ---- --set key=value


def test_a_setting_is_reached_by_its_dotted_path_or_by_its_bare_name(told):
    for key in ("learning.learning_rate", "learning_rate"):
        assert override(told, [f"{key}=0"])["learning"] == {"learning_rate": 0}
    assert told == JOURNEY, "what was read from the file must stay as it was"


def test_several_settings_apply_in_order(told):
    out = override(told, ["seed=3", 'real_testing.limits.total="20.00"', "seed=4"])
    config = build_config(out, "walk.toml")
    assert (config.seed, config.real_testing.limits.total) == (4, 20_000_000)


def test_a_word_that_is_no_toml_value_is_text(told):
    assert override(told, ["algorithm=sac"])["algorithm"] == "sac"
    assert override(told, ['algorithm="sac"'])["algorithm"] == "sac"


def test_a_bare_name_that_stands_in_several_parts_is_refused_with_all_of_them(told):
    with pytest.raises(BadInput) as refused:
        override(told, ["train_every=4"])
    assert str(refused.value) == (
        "'train_every' is ambiguous: one of simulation.train_every, historical.train_every, "
        "real_testing.train_every, scaled.train_every."
    )


@pytest.mark.parametrize(
    ("setting", "candidates"),
    [
        (
            "days=3",
            "real_testing.limits.days, scaled.steps.0.days, scaled.steps.0.limits.days, scaled.steps.1.days, "
            "scaled.steps.1.limits.days",
        ),
        (
            "daily_budget=7",
            "real_testing.daily_budget, scaled.steps.0.daily_budget, scaled.steps.1.daily_budget",
        ),
    ],
)
def test_a_bare_name_that_also_stands_in_a_step_of_the_ramp_is_refused(told, setting, candidates):
    told["scaled"]["steps"] = [deepcopy(STEP), deepcopy(STEP)]
    with pytest.raises(BadInput) as refused:
        override(told, [setting])
    assert str(refused.value) == f"'{setting.partition('=')[0]}' is ambiguous: one of {candidates}."


def test_a_step_of_the_ramp_is_set_by_its_number_and_the_file_stays_as_it_was(told):
    told["scaled"]["steps"] = [deepcopy(STEP), deepcopy(STEP)]
    before = deepcopy(told)
    out = override(told, ["scaled.steps.1.limits.days=9", 'scaled.steps.1.daily_budget="6"'])
    steps = build_config(out, "walk.toml").scaled.steps
    assert [(s.limits.days, s.daily_budget) for s in steps] == [(30, 5_000_000), (9, 6_000_000)]
    assert told == before


def test_a_step_that_is_not_on_the_ramp_or_is_no_table_is_refused_by_name(told):
    with pytest.raises(BadInput, match=r"no setting 'scaled\.steps\.7\.days'"):
        override(told, ["scaled.steps.7.days=3"])
    told["scaled"]["steps"] = [3]
    with pytest.raises(BadInput, match="'0' is 3 in the configuration, expected a table"):
        override(told, ["scaled.steps.0.days=3"])


def test_a_step_set_as_a_whole_may_be_refined_by_a_later_setting(told):
    whole = '{daily_budget="5", days=2, agent_campaigns=1, control_campaigns=1, limits={per_episode="10", per_day="20", total="40", days=2}}'
    out = override(told, [f"scaled.steps=[{whole}]", "scaled.steps.0.days=1"])
    assert [s.days for s in build_config(out, "walk.toml").scaled.steps] == [1]


def test_an_unknown_setting_is_refused_with_a_suggestion(told):
    with pytest.raises(BadInput, match=r"no setting 'learning_rat'\. Did you mean 'learning_rate'\?"):
        override(told, ["learning_rat=0"])


@pytest.mark.parametrize("assignment", ["learning_rate", "=3", ""])
def test_a_setting_without_key_or_value_is_refused(told, assignment):
    with pytest.raises(BadInput, match="--set takes key=value"):
        override(told, [assignment])


@pytest.mark.parametrize(
    "assignment", ["daily_budget=5.0000001", "daily_budget=nan", "learning_rate=nan", "learning_rate=much"]
)
def test_a_setting_is_held_against_the_model_like_anything_written(told, assignment):
    key = assignment.partition("=")[0]
    out = override(told, [f"{'real_testing.' if key == 'daily_budget' else ''}{assignment}"])
    assert key in refusal(out)


def test_money_and_rates_are_set_on_the_command_line_as_one_would_write_them(told):
    out = override(told, ["real_testing.daily_budget=0.10", "learning_rate=5e-4", "keep=0.5"])
    config = build_config(out, "walk.toml")
    assert config.real_testing.daily_budget == 100_000
    assert (config.learning.learning_rate, config.history.keep) == (5e-4, 0.5)


def test_a_setting_below_something_that_is_no_table_is_refused_by_the_model_not_by_accident(told):
    told["learning"] = 3
    with pytest.raises(BadInput, match="learning"):
        build_config(override(told, ["learning_rate=0"]), "walk.toml")


# ---- the file


def test_a_missing_file_and_broken_toml_are_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match=r"no configuration file .*none\.toml"):
        read_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 3\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"broken\.toml is not valid TOML"):
        read_toml(broken)
    broken.write_bytes(b'name = "\xff"\n')
    with pytest.raises(BadInput, match=r"broken\.toml is not valid TOML"):
        read_toml(broken)


def test_every_default_of_the_model_passes_its_own_checks(told):
    config = build_config(told, "walk.toml")
    assert (
        JourneyConfig.model_validate(
            config.model_dump(exclude={"platform", "simulation", "real_testing", "scaled"})
            | {name: told[name] for name in ("platform", "simulation", "real_testing", "scaled")}
        )
        == config
    )
