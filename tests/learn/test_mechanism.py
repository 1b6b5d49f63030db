"""A training call is looked at a second time: honest calls of every algorithm hold, spoilt ones are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import saboteurs
from benchmarks.saboteurs import CONFIGS, SCHEMA, STEPS, ad_world
from jax import Array

from gaelp.learn import tabular
from gaelp.learn.algorithm import ALGORITHMS, PPO, Algorithm
from gaelp.learn.mechanism import Call, StepAudit, _program, audit
from gaelp.learn.normalise import unscaled
from gaelp.learn.tabular import HIDDEN

ALL = np.int32(2**31 - 1)


def call_of(algorithm: Algorithm, config: Any, calls_before: int = 0) -> Call:
    """A call in the ad world, after so many honest ones."""
    honest = ALGORITHMS[algorithm.name]
    state = honest.init(config, SCHEMA, HIDDEN, jax.random.key(0), unscaled(16, HIDDEN))
    for number in range(calls_before + 1):
        call = Call(
            state=state, experience=PLAY(state.policy, jax.random.key(number)), anchor=state.policy,
            coefficients=algorithm.coefficients(config), num_epochs=np.int32(2), batch_size=np.int32(32), width=32,
        )  # fmt: skip
        if number < calls_before:
            state = done(honest, call)
    return call


PLAY = jax.jit(lambda policy, key: tabular.play(ad_world(), SCHEMA, policy, key, 32, STEPS))


def done(algorithm: Algorithm, call: Call) -> Any:
    return algorithm.update(
        call.state, call.experience, call.anchor, call.coefficients, call.num_epochs, call.batch_size, ALL,
        width=call.width,
    )[0]  # fmt: skip


def looked_at(algorithm: Algorithm, config: Any = None, calls_before: int = 0) -> StepAudit:
    call = call_of(algorithm, CONFIGS[algorithm.name] if config is None else config, calls_before)
    return audit(algorithm, call, done(algorithm, call))


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
def test_an_honest_call_agrees_with_float64_to_a_hundred_thousandth(name: str) -> None:
    for calls_before in (0, 3):
        found = looked_at(ALGORITHMS[name], calls_before=calls_before)
        assert found.faults == ()
        assert found.worst["slope"] < 1e-4
        assert found.worst["gradient"] < 1e-4
        assert found.worst["step"] < 1e-6
        assert found.replayed_hash == found.trained_hash


def test_a_schedule_is_followed_by_the_second_opinion_as_well() -> None:
    falling = replace(
        CONFIGS["ppo"], learning_rate_final=1e-4, entropy=0.1, entropy_final=0.0, anneal_updates=20
    )
    assert looked_at(PPO, falling, calls_before=2).faults == ()


def test_the_clipped_gradient_is_the_one_that_is_compared() -> None:
    # The largest norm allowed is far below the gradient's, so every step is clipped.
    assert looked_at(PPO, replace(CONFIGS["ppo"], max_grad_norm=1e-4)).faults == ()


def test_a_learning_rate_of_zero_is_no_fault_of_the_arithmetic() -> None:
    assert looked_at(PPO, replace(CONFIGS["ppo"], learning_rate=0.0)).faults == ()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (saboteurs.frozen, "off textbook Adam"),
        (saboteurs.noise, "off textbook Adam"),
        (saboteurs.uphill, "off textbook Adam"),
        (saboteurs.drift, "off textbook Adam"),
        (saboteurs.first_layer_left_out, "the gradient that was used"),
        (saboteurs.detached, "along a random direction"),
    ],
)
def test_a_spoilt_call_is_named(spoil: Any, said: str) -> None:
    assert any(said in fault for fault in looked_at(spoil(PPO)).faults)


def test_a_graph_cut_in_loss_and_update_alike_still_shows_along_a_random_direction() -> None:
    # Loss and gradient agree with one another, for the same cut is in both; the loss itself falls otherwise.
    plain = PPO.objectives["critic"]

    def cut(agent: Any, rows: Any, c: Any) -> Any:
        first, *others = agent.critic
        held = replace(agent, critic=(jax.lax.stop_gradient(first), *others))
        return plain(held, rows, c)

    objectives = dict(PPO.objectives) | {"critic": cut}
    algorithm = replace(saboteurs.with_update(PPO, critic_without_first_layer), objectives=objectives)
    faults = looked_at(algorithm).faults
    assert any("along a random direction" in fault and "critic" in fault for fault in faults)


def critic_without_first_layer(before: Any, after: Any, report: Any) -> tuple[Any, Any]:
    start = sum(x.size for x in jax.tree.leaves(before.agent.actor))
    stop = start + sum(x.size for x in jax.tree.leaves(before.agent.critic[0]))
    moments = after.optimiser._replace(
        mu=after.optimiser.mu.at[start:stop].set(0.0), nu=after.optimiser.nu.at[start:stop].set(0.0)
    )
    agent = replace(after.agent, critic=(before.agent.critic[0], *after.agent.critic[1:]))
    return replace(after, agent=agent, optimiser=moments), report


def test_training_that_went_on_with_other_weights_is_named() -> None:
    call = call_of(PPO, CONFIGS["ppo"])
    after = done(PPO, call)
    other = replace(after, agent=jax.tree.map(lambda x: x * jnp.float32(1.0000001), after.agent))
    found = audit(PPO, call, other)
    assert found.faults == ("the call, played again from the state before it, leads to other weights",)


class _Kinked(eqx.Module):
    q: Array


@pytest.mark.parametrize("at", [5e-5, -5e-5])
def test_a_kink_near_the_weights_is_no_fault(at: float) -> None:
    # relu bends at 0, which lies 5e-5 from the weight: measured over 1e-4 its slope would be 0.75 or 0.25.
    with jax.enable_x64(True):
        agent = _Kinked(jnp.array([at, 1.0]))
        program = _program(lambda agent, rows, c: jnp.sum(jax.nn.relu(agent.q)), ("q",))
        gradient, slopes = program(agent, None, None, np.array([[1.0, 0.0]]))
        assert float(slopes[0]) == pytest.approx(float(gradient[0]), abs=1e-6)
        assert float(gradient[0]) == float(at > 0)
