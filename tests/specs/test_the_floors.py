"""Imports go down, never up and not sideways; the commands that stop a run start without JAX."""

import subprocess
import sys
from pathlib import Path

import pytest

from gaelp.audit.floors import FLOORS, main, trespasses, trespasses_below

SRC = Path(__file__).parents[2] / "src"


def reasons(source: str, module: str) -> list[str]:
    return [
        f"{found.line} {found.imported}: {found.reason}" for found in trespasses(source, module, "planted.py")
    ]


def test_the_house_has_no_trespass():
    assert [str(found) for found in trespasses_below(SRC)] == []


def test_every_room_that_is_built_stands_on_a_floor():
    rooms = {path.name for path in (SRC / "gaelp").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= FLOORS.keys()


def test_an_import_down_or_within_the_room_passes():
    source = (
        "import jax\nimport gaelp\nfrom gaelp import __version__, core\nfrom gaelp.bidding import pacer\n"
        "from gaelp.learn.ppo import update\nfrom . import returns\nfrom .. import core\n"
    )
    assert reasons(source, "gaelp.learn.engine") == []


@pytest.mark.parametrize(
    ("importer", "source", "expected"),
    [
        (
            "gaelp.core.money",
            "import gaelp.safety.ledger",
            "1 gaelp.safety.ledger: up, from floor 0 to floor 1",
        ),
        ("gaelp.learn.ppo", "from gaelp.store import log", "1 gaelp.store: up, from floor 2 to floor 3"),
        ("gaelp.learn.ppo", "from gaelp import market", "1 gaelp.market: sideways, from floor 2 to floor 2"),
        (
            "gaelp.learn.ppo",
            "from ..market import world",
            "1 gaelp.market: sideways, from floor 2 to floor 2",
        ),
        (
            "gaelp.learn.__init__",
            "from .. import market",
            "1 gaelp.market: sideways, from floor 2 to floor 2",
        ),
        (
            "gaelp.audit.run",
            "import gaelp.orchestration",
            "1 gaelp.orchestration: sideways, from floor 4 to floor 4",
        ),
        ("gaelp.report.page", "from gaelp.web import x", "1 gaelp.web: sideways, from floor 5 to floor 5"),
        ("gaelp.report.page", "import gaelp.cli.app", "1 gaelp.cli.app: sideways, from floor 5 to floor 5"),
        ("gaelp.core.money", "from gaelp.utils import x", "1 gaelp.utils: 'utils' is no room of the house"),
        (
            "gaelp.utils",
            "from gaelp.core import x",
            "1 gaelp.core: 'utils', the importer, is no room of the house",
        ),
        (
            "gaelp.__init__",
            "from .core import money",
            "1 gaelp.core: the house itself imports none of its rooms",
        ),
    ],
)
def test_an_import_up_or_sideways_is_found(importer, source, expected):
    assert reasons(source, importer) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        "def later():\n    from gaelp.store import log",
        "if TYPE_CHECKING:\n    from gaelp.store import log",
        "import importlib\nimportlib.import_module('gaelp.store')",
        "import math\n__import__('gaelp.store')",
    ],
    ids=["in a function", "for types only", "import_module", "__import__"],
)
def test_no_way_of_importing_hides_a_trespass(source):
    assert reasons(source, "gaelp.core.money") == ["2 gaelp.store: up, from floor 0 to floor 3"]


def test_only_the_entrance_imports_its_neighbours():
    source = "from gaelp.report import page\nfrom gaelp.web import pages\nfrom gaelp.serve import policy\n"
    assert reasons(source, "gaelp.cli.app") == []
    assert reasons("from gaelp.cli.app import main\n", "gaelp.__main__") == []


@pytest.mark.parametrize("room", ["bidding", "learn", "market"])
def test_nothing_of_the_simulator_enters_the_sandbox(room):
    source = f"from gaelp.{room} import anything\n"
    barred = [f"1 gaelp.{room}: nothing of bidding, learn, market may enter gaelp.platforms.sandbox"]
    assert reasons(source, "gaelp.platforms.sandbox.users") == barred
    assert reasons(source, "gaelp.platforms.sandbox.__init__") == barred
    assert reasons(source, "gaelp.platforms.sandboxed") == []


def test_the_command_names_a_planted_trespass_and_exits_1(tmp_path, capsys):
    room = tmp_path / "gaelp" / "core"
    room.mkdir(parents=True)
    (room / "money.py").write_text("from gaelp.cli import app\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{room / 'money.py'}:1: floors: gaelp.core.money imports gaelp.cli: up, from floor 0 to floor 5",
        "floors: 1 trespasses",
    ]


def test_a_folder_without_a_house_is_no_clean_house(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2


def loaded_after(code: str) -> set[str]:
    """The top-level modules and the rooms in sys.modules after `code` ran in a Python of its own."""
    report = "\nimport sys\nprint('\\n' + ' '.join(sys.modules))\n"
    run = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


JAX_ROOMS = {"jax", "jaxlib", "equinox", "optax", "gaelp.learn", "gaelp.market"}


@pytest.mark.parametrize("command", ["status", "halt", "grant", "approve"])
def test_the_commands_that_stop_or_pay_for_a_run_start_without_jax(command):
    code = f"""
import sys
sys.argv = ["gaelp", {command!r}, "--help"]
from gaelp.cli.app import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert code in (0, None), code
"""
    assert loaded_after(code) & JAX_ROOMS == set()


def test_the_sandbox_loads_nothing_of_the_simulator():
    code = """
import importlib, pkgutil
import gaelp.platforms.sandbox as sandbox
for module in pkgutil.walk_packages(sandbox.__path__, sandbox.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    assert loaded_after(code) & JAX_ROOMS == set()
