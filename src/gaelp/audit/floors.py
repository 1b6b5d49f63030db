"""Knows which room stands on which floor and finds imports that do not go down; runs nothing it reads."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOUSE = "gaelp"
ENTRANCE = "cli"
TOP = 5

FLOORS = {
    "core": 0,
    "bidding": 1,
    "evidence": 1,
    "logs": 1,
    "safety": 1,
    "learn": 2,
    "market": 2,
    "platforms": 3,
    "store": 3,
    "orchestration": 4,
    "audit": 4,
    "cli": 5,
    "report": 5,
    "serve": 5,
    "web": 5,
}

# The sandbox must not be the simulator in disguise: what was trained in the one is tried on the other.
KEPT_OUT = {f"{HOUSE}.platforms.sandbox": ("bidding", "learn", "market")}

IMPORTERS = {"import_module", "__import__"}


@dataclass(frozen=True, kw_only=True)
class Trespass:
    """One import that the floors forbid."""

    path: str
    line: int
    importer: str
    imported: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: floors: {self.importer} imports {self.imported}: {self.reason}"


@dataclass(frozen=True)
class Import:
    """A module named by an import, with the line that names it."""

    name: str
    line: int


def trespasses(source: str, module: str, path: str) -> tuple[Trespass, ...]:
    """Every import in `source` that goes up, sideways, or where it was kept out.

    module: dotted name of the file; a package is named by its `__init__`, as in `gaelp.core.__init__`, so
    that relative imports resolve. Imports inside functions, under TYPE_CHECKING and by import_module with
    a literal name count as well. Raises SyntaxError when the source does not parse.
    """
    found = []
    for imported in _imports(ast.parse(source, filename=path), module):
        reason = _objection(module, imported.name)
        if reason is not None:
            found.append(
                Trespass(
                    path=path, line=imported.line, importer=module, imported=imported.name, reason=reason
                )
            )
    return tuple(found)


def trespasses_below(root: Path) -> tuple[Trespass, ...]:
    """Every trespass in the house that stands in `root`, the folder that holds `gaelp`.

    Raises FileNotFoundError when there is no house there: an empty search must not look like a clean one.
    """
    files = sorted((root / HOUSE).rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"no Python file in {root / HOUSE}; expected the folder that holds {HOUSE!r}")
    found: list[Trespass] = []
    for file in files:
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        found.extend(trespasses(file.read_text(encoding="utf-8"), module, str(file)))
    return tuple(found)


def _objection(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`; None when it may."""
    for package, rooms in KEPT_OUT.items():
        if _within(importer, package) and _room(imported) in rooms:
            return f"nothing of {', '.join(rooms)} may enter {package}"
    if not _within(imported, HOUSE) or imported == HOUSE:
        return None
    here, there = _room(importer), _room(imported)
    if there not in FLOORS:
        return f"{there!r} is no room of the house"
    if here == "__init__":
        return "the house itself imports none of its rooms"
    if here == "__main__":
        here = ENTRANCE
    if here not in FLOORS:
        return f"{here!r}, the importer, is no room of the house"
    if here == there or FLOORS[there] < FLOORS[here]:
        return None
    if here == ENTRANCE and FLOORS[there] == TOP:
        return None
    direction = "sideways" if FLOORS[there] == FLOORS[here] else "up"
    return f"{direction}, from floor {FLOORS[here]} to floor {FLOORS[there]}"


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == HOUSE else ""


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _imports(tree: ast.Module, module: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            for alias in node.names:
                yield Import(_target(base, alias.name), node.lineno)
        elif isinstance(node, ast.Call) and _called(node) in IMPORTERS and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield Import(name.value, node.lineno)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    named = node.module.split(".") if node.module else []
    if node.level == 0:
        return ".".join(named)
    # One dot is the package the file stands in, each further dot one package up.
    return ".".join(module.split(".")[: -node.level] + named)


def _target(base: str, name: str) -> str:
    # `from gaelp import x` names the room x; `__version__` and the like are the house's own.
    if base == HOUSE and not name.startswith("__"):
        return f"{base}.{name}"
    # `from gaelp.platforms import sandbox` stays in the room that `base` already names.
    return base


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def main(arguments: list[str]) -> int:
    """Print every trespass below the one folder named; 0 when there is none, 2 when it cannot be read."""
    if len(arguments) != 1:
        print("usage: python -m gaelp.audit.floors SRC", file=sys.stderr)
        return 2
    try:
        found = trespasses_below(Path(arguments[0]))
    except (OSError, SyntaxError) as error:
        print(f"floors: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    for trespass in found:
        print(trespass)
    print(f"floors: {len(found)} trespasses")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
