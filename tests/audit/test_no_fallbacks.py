"""Each fallback is planted on purpose and must be found, by rule and by line."""

import subprocess
import sys
from textwrap import dedent

import pytest

from gaelp.audit.no_fallbacks import examine, main, violations


def found(source: str) -> list[tuple[int, str]]:
    return [(violation.line, violation.rule) for violation in violations(dedent(source), "planted.py")]


# Every plant begins on line 1; the offending line is the one that ends in `# here`.
PLANTS = {
    "bare-except": [
        """\
        try:
            spend()
        except:  # here
            raise
        """,
    ],
    "broad-except": [
        """\
        try:
            spend()
        except Exception as error:  # here
            store.append(error)
        """,
        """\
        try:
            spend()
        except (KeyError, BaseException):  # here
            release()
        """,
        """\
        try:
            spend()
        except builtins.Exception:  # here
            if strict:
                raise
        """,
        """\
        def pay():
            try:
                spend()
            except Exception:  # here
                if dry:
                    return spent
                raise
        """,
        """\
        for order in orders:
            try:
                spend(order)
            except Exception:  # here
                if dry:
                    continue
                raise
        """,
        """\
        async def pay():
            try:
                await spend()
            except* Exception as errors:  # here
                await store.append(errors)
        """,
    ],
    "silent-handler": [
        """\
        try:
            spend()
        except KeyError:  # here
            pass
        """,
        """\
        for order in orders:
            try:
                spend(order)
            except TimeoutError:  # here
                continue
        """,
        """\
        try:
            spend()
        except KeyError:  # here
            ...
        """,
        """\
        try:
            spend()
        except KeyError as error:  # here
            log.debug("spend_failed", error=error)
            pass
        """,
    ],
    "except-default": [
        """\
        def price():
            try:
                return landscape[slot]
            except KeyError:
                return 0.0  # here
        """,
        """\
        def price():
            try:
                return landscape[slot]
            except KeyError:
                return  # here
        """,
        """\
        def price():
            try:
                return landscape[slot]
            except KeyError:
                if quiet:
                    return float("nan")  # here
                raise
        """,
        """\
        try:
            price = landscape[slot]
        except KeyError:
            price = -1  # here
        """,
        """\
        try:
            bids = read()
        except OSError:
            bids: dict[str, int] = {}  # here
        """,
    ],
    "guarded-import": [
        """\
        try:
            import jax  # here
        except ImportError as error:
            missing = error
        """,
        """\
        try:
            from jax import numpy  # here
        except (ModuleNotFoundError, AttributeError):
            import numpy
        """,
        """\
        try:
            jax = importlib.import_module("jax")  # here
        except ImportError:
            use(numpy)
        """,
        """\
        fast = importlib.util.find_spec("jax") is not None  # here
        """,
    ],
    "suppress": [
        """\
        import contextlib
        with contextlib.suppress(KeyError):  # here
            spend()
        """,
        """\
        from contextlib import suppress as quietly
        with quietly(KeyError):  # here
            spend()
        """,
    ],
    "default-lookup": [
        """\
        cost = row.get("cost", 0)  # here
        """,
        """\
        cost = row.get("cost", default=fallback)  # here
        """,
        """\
        cost = row.pop("cost", None)  # here
        """,
    ],
    "getattr-default": [
        """\
        spent = getattr(result, "spent", None)  # here
        """,
    ],
    "hasattr": [
        """\
        if hasattr(result, "experiences"):  # here
            train(result)
        """,
    ],
    "environment-default": [
        """\
        url = os.environ.get("URL", "sqlite://")  # here
        """,
        """\
        url = os.getenv("URL", "sqlite://")  # here
        """,
    ],
    "or-default": [
        """\
        budget = config.budget or 50  # here
        """,
        """\
        charge(row["cost"] or row["price"] or 0.0)  # here
        """,
        """\
        rows = read(path) or []  # here
        """,
        """\
        name = title or "unnamed"  # here
        """,
        """\
        reserve(amount=amount or dict())  # here
        """,
    ],
    "stub-body": [
        """\
        def halt(run): pass  # here
        """,
        """\
        class Platform:
            async def pause(self, campaign):  # here
                ...
        """,
        """\
        def rollback(run):  # here
            '''Puts the last good weights back.'''
        """,
        """\
        def rollback(run):  # here
            '''Puts the last good weights back.'''
            raise NotImplementedError("later")
        """,
    ],
    "constant-verdict": [
        """\
        def may_graduate(run) -> bool:  # here
            '''The gate of the last phase.'''
            return True
        """,
        """\
        def gate(evidence) -> Verdict:  # here
            return Verdict(PASS, "gate", "all is well")
        """,
        """\
        def gate(evidence) -> "verdict.Ruling":  # here
            return Ruling.PASS
        """,
    ],
}

CLEAN = {
    "a broad handler that always raises": """\
        try:
            spend()
        except Exception as error:
            if known(error):
                raise Refused(str(error)) from error
            else:
                release()
                raise
        """,
    "a broad handler that leaves the process": """\
        try:
            spend()
        except Exception as error:
            report(error)
            sys.exit(3)
        """,
    "a broad handler with a loop of its own": """\
        try:
            spend()
        except BaseException:
            for order in open_orders:
                if order.closed:
                    continue
                cancel(order)
            raise
        """,
    "a narrow handler that acts": """\
        def price():
            try:
                return landscape[slot]
            except KeyError:
                return calibrate(slot)
        """,
    "a handler that records the failure": """\
        try:
            poll()
        except TimeoutError:
            timed_out = True
        """,
    "a message that is raised": """\
        try:
            poll()
        except TimeoutError as error:
            reason = "the platform did not answer"
            raise PlatformDown(reason) from error
        """,
    "an import whose failure is explained": """\
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra("install gaelp[postgresql]") from error
        """,
    "an import in a try that catches something else": """\
        try:
            import plugin
        except PluginError as error:
            explain(error)
        """,
    "lookups without defaults": """\
        cost = row["cost"]
        seen = index.get(key)
        spent = getattr(result, name)
        answer = client.get(url, timeout=3)
        queue.pop()
        waiting.pop(key, None)
        home = os.environ["HOME"]
        """,
    "or between conditions": """\
        if stopped or spent > granted:
            halt()
        done = finished or False
        either = left or right
        """,
    "declarations": """\
        class Platform(typing.Protocol[T]):
            '''What a platform must do.'''
            def pause(self, campaign): ...
            def ready(self) -> bool: ...

        class Algorithm(eqx.Module):
            @abc.abstractmethod
            def act(self): raise NotImplementedError

        @typing.overload
        def usd(amount: int): ...

        class Refused(Exception):
            '''A class may be empty.'''
        """,
    "verdicts that depend on what they are asked": """\
        def enough(books) -> bool:
            return books.available > 0

        def passed(rule: str, reason: str) -> Verdict:
            return Verdict(PASS, rule, reason)

        def refused(books) -> bool:
            return False
        """,
    "the words in a string or a comment": """\
        text = "except: pass  # fallback-allowed:"  # hasattr(x, y)
        """,
}


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        pytest.param(rule, plant, id=f"{rule}-{i}")
        for rule, plants in PLANTS.items()
        for i, plant in enumerate(plants)
    ],
)
def test_a_planted_fallback_is_found_on_its_line(rule, plant):
    lines = [number for number, line in enumerate(plant.splitlines(), start=1) if "# here" in line]
    assert [(line, rule) for line in lines] == [(line, name) for line, name in found(plant) if name == rule]


@pytest.mark.parametrize("source", [pytest.param(source, id=name) for name, source in CLEAN.items()])
def test_code_that_stops_where_it_should_passes(source):
    assert found(source) == []


def test_several_fallbacks_are_listed_by_line():
    source = """\
        rows = read(path) or []
        cost = row.get("cost", 0) or 1
        """
    assert found(source) == [(1, "or-default"), (2, "default-lookup"), (2, "or-default")]


def test_a_violation_prints_as_path_line_rule_message():
    (violation,) = violations("x = hasattr(a, 'b')\n", "house/room.py")
    assert str(violation) == "house/room.py:1: hasattr: ask the type, not the object"


def test_a_suppression_with_a_reason_silences_and_is_reported():
    source = 'mode = row.get("mode", "live")  # fallback-allowed: the export of 2019 has no such column\n'
    examined = examine(source, "planted.py")
    assert examined.violations == ()
    (suppression,) = examined.suppressions
    assert (suppression.line, suppression.rules) == (1, ("default-lookup",))
    assert suppression.reason == "the export of 2019 has no such column"


def test_a_suppression_may_stand_on_any_line_of_what_it_allows():
    source = """\
        mode = row.get(
            "mode",
            "live",
        )  # fallback-allowed: the export of 2019 has no such column
        """
    assert found(source) == []


@pytest.mark.parametrize("comment", ["# fallback-allowed:", "# fallback-allowed", "# fallback-allowed:   "])
def test_a_suppression_without_a_reason_is_a_violation_and_silences_nothing(comment):
    assert found(f'mode = row.get("mode", "live")  {comment}\n') == [
        (1, "default-lookup"),
        (1, "empty-reason"),
    ]


def test_a_suppression_that_suppresses_nothing_is_a_violation():
    assert found('mode = row["mode"]  # fallback-allowed: was needed once\n') == [(1, "unused-suppression")]


def test_a_suppression_on_one_line_leaves_the_next_alone():
    source = """\
        mode = row.get("mode", "live")  # fallback-allowed: the export of 2019 has no such column
        cost = row.get("cost", 0)
        """
    assert found(source) == [(2, "default-lookup")]


def test_a_suppression_in_a_body_does_not_allow_the_handler_around_it():
    source = """\
        try:
            spend()
        except Exception:
            mode = row.get("mode", "live")  # fallback-allowed: the export of 2019 has no such column
        """
    assert found(source) == [(3, "broad-except")]


def test_a_suppression_beside_another_directive_counts():
    assert (
        found("x = hasattr(a, 'b')  # noqa: B009  # fallback-allowed: a duck is wanted  # type: ignore\n")
        == []
    )


def test_the_command_prints_what_stands_counts_what_is_suppressed_and_exits_1(tmp_path, capsys):
    (tmp_path / "planted.py").write_text("a = b or 1\nc = d or 2  # fallback-allowed: d is never 0\n")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{tmp_path / 'planted.py'}:2: suppressed or-default: d is never 0",
        f"{tmp_path / 'planted.py'}:1: or-default: `or 1` replaces every empty value, 0 included",
        "no-fallbacks: 1 files, 1 violations, 1 suppressions",
    ]


def test_the_command_exits_0_on_clean_code(tmp_path, capsys):
    (tmp_path / "clean.py").write_text("a = 1\n")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no-fallbacks: 1 files, 0 violations, 0 suppressions\n"


@pytest.mark.parametrize("text", ["def broken(:\n", None], ids=["does not parse", "does not exist"])
def test_what_cannot_be_read_is_no_clean_code(tmp_path, text):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main([str(path)])
    assert stop.value.code == 2


def test_a_folder_without_python_is_no_clean_code(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2


def test_the_module_runs_as_a_command(tmp_path):
    (tmp_path / "planted.py").write_text("try:\n    f()\nexcept:\n    pass\n")
    run = subprocess.run(
        [sys.executable, "-m", "gaelp.audit.no_fallbacks", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "planted.py:3: bare-except: " in run.stdout
