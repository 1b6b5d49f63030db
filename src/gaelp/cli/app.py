"""The command line: parse, call one thing, print what it said. Users' mistakes become one sentence and exit code 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gaelp.cli.calibrate_command import calibrate_command
from gaelp.cli.ladder_command import ladder_command
from gaelp.cli.replay_command import replay_command
from gaelp.core.errors import BadInput, GaelpError

app = typer.Typer(
    name="gaelp",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Home = Annotated[
    Path, typer.Option("--home", help="Where runs and their store are kept.", envvar="GAELP_HOME")
]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")]
RunName = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's name; the latest when left out.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The journey's TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting, such as learning_rate=0 or scaled.steps.0.days=2; may be repeated.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="The seed; equal seeds give equal runs.")]
Algorithm = Annotated[str | None, typer.Option("--algorithm", help="ppo, dqn or sac.")]

RUNS = Path("runs")
DEMO = Path(__file__).parent / "demo.toml"


def main() -> None:
    """The entry point: exit code 0 on success, 1 when the work ended badly, 2 for a mistake in what was asked."""
    try:
        code = app(prog_name="gaelp", standalone_mode=False)
    except GaelpError as error:
        print(f"gaelp: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except typer.TyperException as error:
        print(f"gaelp: {_plainly(error, sys.argv[1:])}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        print("gaelp: interrupted; `gaelp resume` goes on from the last saved point.", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _plainly(error: typer.TyperException, words: list[str]) -> str:
    """A usage error in lower case, with the command to ask for help: that of the subcommand, if `words` name one."""
    said = error.format_message().replace("\n", " ").strip()
    said = f"{said[:1].lower()}{said[1:].rstrip('.')}"
    known = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    help_at = (
        f"`gaelp {words[0]} --help` shows how." if words[0] in known else "`gaelp --help` lists the commands."
    )
    return f"{said} {help_at}" if said.endswith("?") else f"{said}; {help_at}"


@app.callback()
def entrance(context: typer.Context) -> None:
    """Take an ad-buying agent through simulation, history, a small real budget and scale; each step on evidence."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def demo(
    home: Home = RUNS,
    seed: Seed = None,
    algorithm: Algorithm = None,
    settings: Settings = None,
    json_: Json = False,
) -> None:
    """Walk one agent through all four phases on a sandbox.

    The sandbox is an ad network of its own, on this machine; grants and approvals are given visibly.

    Example:

        gaelp demo --seed 7
    """
    import tomllib

    from gaelp.cli.journey import start

    told = tomllib.loads(DEMO.read_text(encoding="utf-8"))
    start(
        home,
        told,
        "the demo's configuration",
        _overrides(seed, algorithm, settings),
        answered_by="demo",
        as_json=json_,
    )


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The journey's TOML file; or give --logs.")
    ] = None,
    logs: Annotated[
        Path | None, typer.Option("--logs", help="Instead of CONFIG: a recorded auction log to train and judge on.")
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="The log's format: ipinyou-theta.")] = None,
    episode_auctions: Annotated[
        int | None, typer.Option(help="With --logs: an episode is so many auctions; 480.")
    ] = None,
    budget_fraction: Annotated[
        str | None,
        typer.Option(help="With --logs: an episode's budget, as a share of what a training episode costs; 1/16."),
    ] = None,
    episode_budget: Annotated[
        str | None, typer.Option(help="With --logs: an episode's budget in the log's money.")
    ] = None,
    max_bid: Annotated[str | None, typer.Option(help="With --logs: no bid above this.")] = None,
    home: Home = RUNS, seed: Seed = None, algorithm: Algorithm = None, settings: Settings = None, json_: Json = False,
) -> None:  # fmt: skip
    """Run a configured journey; it waits before any money.

    `gaelp grant` and `gaelp approve`, from another terminal, let it go on. With --logs it is a journey through the
    first two phases on a recorded auction log: worlds fitted to its first part, exact replay of it, judged on its
    last part. No money can follow; it prints both verdicts and ends.

    Example:

    \b
        gaelp run journey.toml --set simulation.episodes=6400

    \b
        gaelp run --logs train.txt --format ipinyou-theta --episode-auctions 480 --budget-fraction 1/16
    """
    from gaelp.cli.log_run import LogOptions, start_on_log

    options = LogOptions(
        logs=logs, format_=format_, episode_auctions=episode_auctions, budget_fraction=budget_fraction,
        episode_budget=episode_budget, max_bid=max_bid,
    )  # fmt: skip
    overrides = _overrides(seed, algorithm, settings)
    if config is None and logs is None:
        raise BadInput("give the journey's TOML file, or --logs with a recorded auction log.")
    if config is None:
        start_on_log(home, options, overrides, as_json=json_)
        return
    if options.given():
        raise BadInput(
            f"CONFIG and {options.given()[0]} exclude each other: a journey is configured or on a log."
        )
    from gaelp.cli.journey import start

    start(
        home,
        _toml(config),
        str(config),
        overrides,
        answered_by="person",
        as_json=json_,
    )


@app.command()
def resume(
    run_name: RunName = None,
    home: Home = RUNS,
    lift: Annotated[str | None, typer.Option("--lift", help="Lift a halt, with the reason.")] = None,
    json_: Json = False,
) -> None:
    """Go on with a run that was killed or halted.

    It starts from its last saved point and comes to the same result.

    Example:

        gaelp resume demo-1
    """
    from gaelp.cli.journey import go_on

    go_on(home, run_name, lift=lift, as_json=json_)


@app.command()
def plan(
    config: ConfigFile,
    settings: Settings = None,
    json_: Json = False,
) -> None:
    """Show the phases and what you can lose.

    Cadences, gates, guards and the worst case per hour, per day and in all, before anything runs.

    Example:

        gaelp plan journey.toml
    """
    from gaelp.cli.plan import show_plan

    show_plan(_toml(config), str(config), _overrides(None, None, settings), as_json=json_)


@app.command()
def status(run_name: RunName = None, home: Home = RUNS, json_: Json = False) -> None:
    """Say where a run stands and what it waits for.

    Example:

        gaelp status demo-1 --json
    """
    from gaelp.orchestration.run import open_store
    from gaelp.report.summary import status as status_of

    store = open_store(home)
    told = status_of(store, run_name if run_name is not None else store.latest_run().run_id)
    _tell(told, json_)


@app.command()
def report(run_name: RunName = None, home: Home = RUNS, json_: Json = False) -> None:
    """Write a run's report.html from its event log.

    Example:

        gaelp report demo-1
    """
    from gaelp.orchestration.run import any_run
    from gaelp.report.html import write_report

    found = any_run(home, run_name)
    path = found.directory / "report.html"
    write_report(found.store, found.run_id, path)
    _tell({"run": found.run_id, "report": str(path)}, json_)


@app.command()
def grant(
    run_name: RunName = None,
    phase: Annotated[str, typer.Option("--phase", help="real_testing or scaled.")] = ...,  # type: ignore[assignment]
    amount: Annotated[
        str, typer.Option("--amount", help="Whole units of the account's currency, such as 500.")
    ] = ...,  # type: ignore[assignment]
    by: Annotated[str, typer.Option("--by", help="Who grants it.")] = ...,  # type: ignore[assignment]
    home: Home = RUNS,
    json_: Json = False,
) -> None:
    """Let a phase of a run spend so much more.

    Nothing is ever granted by default.

    Example:

        gaelp grant journey-1 --phase real_testing --amount 500 --by "R. Money"
    """
    from gaelp.core.errors import nearest
    from gaelp.core.money import parse_money
    from gaelp.orchestration.run import existing_run

    live = ("real_testing", "scaled")
    if phase not in live:
        raise BadInput(f"no phase {phase!r} spends money: one of {', '.join(live)}.{nearest(phase, live)}")
    found = existing_run(home, run_name)
    money = parse_money(amount, found.config.currency)
    if money.micros == 0:
        raise BadInput("a grant of 0 grants nothing: name an amount above it.")
    with found.store.transaction(found.run_id) as tx:
        tx.grant(phase, money.micros, by)
        available = tx.books.phase(phase).available
    _tell(
        {
            "run": found.run_id,
            "phase": phase,
            "granted_micros": money.micros,
            "available_micros": available,
            "by": by,
        },
        json_,
    )


@app.command()
def approve(
    run_name: RunName = None,
    by: Annotated[str, typer.Option("--by", help="Who approves.")] = ...,  # type: ignore[assignment]
    home: Home = RUNS,
    json_: Json = False,
) -> None:
    """Approve the step that a run waits for.

    The approval is bound to the step's actor, its limit and the evidence shown, and used once.

    Example:

        gaelp approve journey-1 --by "R. Money"
    """
    from gaelp.orchestration.run import existing_run, pending
    from gaelp.safety.approvals import Approval

    found = existing_run(home, run_name)
    wanted = pending(found)
    with found.store.transaction(found.run_id) as tx:
        tx.approve(Approval(wanted, by))
    told = {"run": found.run_id, "phase": wanted.phase, "step": wanted.step, "limit_micros": wanted.limit_micros,
            "actor_hash": wanted.actor_hash, "by": by}  # fmt: skip
    _tell(told, json_)


@app.command()
def halt(
    run_name: RunName = None,
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "halted from the command line",
    home: Home = RUNS,
    json_: Json = False,
) -> None:
    """Stop a run and pause each of its campaigns.

    Drops the latch that its guards read, then pauses on the platform itself, whether or not the run still lives.

    Example:

        gaelp halt demo-1 --reason "spend looks wrong"
    """
    from gaelp.orchestration.halt import halt as halt_run
    from gaelp.orchestration.run import any_run

    found = any_run(home, run_name)
    stopped = halt_run(found, reason)
    told = {
        "run": found.run_id,
        "halted": True,
        "paused": list(stopped.paused),
        "already_paused": stopped.already_paused,
    }
    _tell(told, json_)


@app.command()
def verify(run_name: RunName = None, home: Home = RUNS, json_: Json = False) -> None:
    """Repeat learning verification on a run's weights.

    The last weights; shows each part with its numbers, and whether the log says the same.

    Example:

        gaelp verify demo-1 --json
    """
    from gaelp.cli.proof import show_verification

    show_verification(home, run_name, as_json=json_)


@app.command()
def validate(
    run_name: RunName = None,
    negative_controls: Annotated[
        bool, typer.Option("--negative-controls", help="Also repeat a short run that must not learn.")
    ] = False,
    home: Home = RUNS,
    json_: Json = False,
) -> None:
    """Prove a run from its event log.

    That it trained, at its cadence, that every call moved the weights, and that every micro adds up.

    Example:

        gaelp validate demo-1 --negative-controls
    """
    from gaelp.cli.proof import show_validation

    show_validation(home, run_name, negative_controls=negative_controls, as_json=json_)


app.command(name="ladder")(ladder_command)
app.command(name="replay")(replay_command)
app.command(name="calibrate")(calibrate_command)


def _overrides(seed: int | None, algorithm: str | None, settings: list[str] | None) -> list[str]:
    told = [] if settings is None else list(settings)
    if seed is not None:
        told.append(f"seed={seed}")
    if algorithm is not None:
        told.append(f'algorithm="{algorithm}"')
    return told


def _toml(path: Path) -> dict[str, Any]:
    from gaelp.core.config import read_toml

    return read_toml(path)


def _tell(told: dict[str, Any], as_json: bool) -> None:
    """One JSON object, or one line per field."""
    if as_json:
        print(json.dumps(told))
        return
    width = max(len(key) for key in told)
    for key, value in told.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key:<{width}}  {shown if shown not in (None, '') else '-'}")
