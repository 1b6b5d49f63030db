"""Finds code that carries on quietly where it should stop, by syntax tree; imports nothing of what it reads.

The rules, each named in the output:

    bare-except          `except:` of any kind
    broad-except         a handler of Exception or BaseException that some path leaves without raising
    silent-handler       a handler that only passes, continues or logs
    except-default       a handler that returns a literal or assigns one
    guarded-import       an import whose failure is caught and not raised again; find_spec
    suppress             contextlib.suppress
    default-lookup       .get(key, default), and .pop(key, default) whose result is used
    getattr-default      getattr with a third argument
    hasattr              any use
    environment-default  os.getenv(key, default), os.environ.get(key, default)
    or-default           `... or <number, string or container literal>`
    stub-body            a function of nothing but pass, `...`, a docstring or raise NotImplementedError
    constant-verdict     a function that answers True or a passing verdict whatever it is asked
    empty-reason         a suppression that gives no reason
    unused-suppression   a suppression that suppresses nothing

A violation stands when the lines of the offending code carry no `# fallback-allowed: <reason>` comment. What
was suppressed is printed with its reason and counted.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SUPPRESSION = re.compile(r"#\s*fallback-allowed\b:?\s*(?P<reason>[^#]*)")
BROAD = {"Exception", "BaseException"}
IMPORT_FAILURES = BROAD | {"ImportError", "ModuleNotFoundError"}
LOG_METHODS = {"critical", "debug", "error", "exception", "info", "log", "print", "warn", "warning"}
EXITS = {"sys.exit", "os._exit", "os.abort"}
EMPTY_CONTAINERS = {"dict", "frozenset", "list", "set", "tuple"}
IMPORTERS = {"__import__", "import_module"}
ANSWERS = re.compile(r"\bbool\b|Verdict\b|Ruling\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TRIES = (ast.Try, ast.TryStar)
LOOPS = (ast.For, ast.AsyncFor, ast.While)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One fallback, with the line it begins on; `last_line` ends the code that a suppression may stand on."""

    path: str
    line: int
    last_line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """One `# fallback-allowed` comment and the rules it silenced, sorted."""

    path: str
    line: int
    rules: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: suppressed {', '.join(self.rules)}: {self.reason}"


@dataclass(frozen=True)
class Examination:
    """What stands and what was suppressed in one file, each by line."""

    violations: tuple[Violation, ...]
    suppressions: tuple[Suppression, ...]


@dataclass(frozen=True)
class Found:
    """A rule broken at a node, before path and lines are known."""

    node: ast.stmt | ast.expr | ast.ExceptHandler
    rule: str
    message: str


@dataclass(frozen=True)
class Tree:
    """A parsed file, every node's parent, and the names under which contextlib.suppress is known in it."""

    nodes: tuple[ast.AST, ...]
    parents: dict[ast.AST, ast.AST]
    suppress_names: frozenset[str]


def violations(source: str, path: str) -> tuple[Violation, ...]:
    """The fallbacks in `source` that no comment with a reason allows. Raises SyntaxError."""
    return examine(source, path).violations


def examine(source: str, path: str) -> Examination:
    """The fallbacks in `source`, those that stand apart from those that were suppressed.

    path: how the file is named in the result; nothing is read from it.
    Raises SyntaxError when the source does not parse.
    """
    tree = _tree(source, path)
    broken = {
        Violation(
            path=path,
            line=found.node.lineno,
            last_line=_last_line(found.node),
            rule=found.rule,
            message=found.message,
        )
        for rule in RULES
        for found in rule(tree)
    }
    comments = _comments(source)
    # Without a reason nothing is allowed.
    allowed = {line for line, reason in comments.items() if reason}
    standing: list[Violation] = []
    silenced: dict[int, set[str]] = {}
    for violation in broken:
        spoken_for = (line for line in range(violation.line, violation.last_line + 1) if line in allowed)
        line = next(spoken_for, None)
        if line is None:
            standing.append(violation)
        else:
            silenced.setdefault(line, set()).add(violation.rule)
    for line, reason in comments.items():
        if not reason:
            standing.append(
                _about_comment(path, line, "empty-reason", "say after the colon why this is allowed")
            )
        elif line not in silenced:
            standing.append(
                _about_comment(path, line, "unused-suppression", "nothing here needs to be allowed")
            )
    return Examination(
        tuple(sorted(standing, key=lambda violation: (violation.line, violation.rule))),
        tuple(
            Suppression(path=path, line=line, rules=tuple(sorted(rules)), reason=comments[line])
            for line, rules in sorted(silenced.items())
        ),
    )


def _about_comment(path: str, line: int, rule: str, message: str) -> Violation:
    return Violation(path=path, line=line, last_line=line, rule=rule, message=message)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    matches = (
        (token.start[0], SUPPRESSION.search(token.string))
        for token in tokens
        if token.type == tokenize.COMMENT
    )
    return {line: match["reason"].strip() for line, match in matches if match}


def _last_line(node: ast.stmt | ast.expr | ast.ExceptHandler) -> int:
    # A comment in the body speaks of the body: a function is its header alone, and so is a handler that acts.
    silent = isinstance(node, ast.ExceptHandler) and all(map(_is_silent, node.body))
    if isinstance(node, (ast.ExceptHandler, *FUNCTIONS)) and not silent:
        return max(node.lineno, node.body[0].lineno - 1)
    return node.lineno if node.end_lineno is None else node.end_lineno


def _tree(source: str, path: str) -> Tree:
    nodes = tuple(ast.walk(ast.parse(source, filename=path)))
    parents = {child: parent for parent in nodes for child in ast.iter_child_nodes(parent)}
    suppress_names = frozenset(
        alias.asname if alias.asname else alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "contextlib"
        for alias in node.names
        if alias.name == "suppress"
    )
    return Tree(nodes, parents, suppress_names)


def _handlers(tree: Tree) -> Iterator[Found]:
    for handler in tree.nodes:
        if not isinstance(handler, ast.ExceptHandler):
            continue
        caught = _caught(handler)
        if handler.type is None:
            yield Found(handler, "bare-except", "name the exceptions that are meant")
        elif caught & BROAD and not _always_raises(handler.body):
            yield Found(
                handler, "broad-except", f"{'/'.join(sorted(caught & BROAD))} is caught and not always raised"
            )
        if all(_is_silent(statement) for statement in handler.body):
            yield Found(handler, "silent-handler", "the failure is dropped; raise, or act on it")
        if _always_raises(handler.body):
            continue
        for statement in _own_nodes(handler.body):
            if isinstance(statement, ast.Return) and (
                statement.value is None or _is_literal(statement.value)
            ):
                yield Found(statement, "except-default", "a literal is returned in place of what failed")
            elif isinstance(statement, ast.Assign | ast.AnnAssign) and _covers_up(statement.value):
                yield Found(statement, "except-default", "a literal stands in for what failed")


def _covers_up(value: ast.expr | None) -> bool:
    # `failed = True` records the failure; any other literal covers it.
    return value is not None and _is_literal(value) and not _is_truth(value)


def _caught(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"BaseException"}
    named = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {_dotted(name).rpartition(".")[2] for name in named}


def _always_raises(body: Sequence[ast.stmt]) -> bool:
    """Whether every path through a handler's body ends in raise or in leaving the process."""
    return _ends_in_raise(body) and not any(_escapes(statement) for statement in body)


def _ends_in_raise(body: Sequence[ast.stmt]) -> bool:
    return any(_raises(statement) for statement in body)


def _raises(statement: ast.stmt) -> bool:
    match statement:
        case ast.Raise():
            return True
        case ast.Expr(value=ast.Call(func=func)):
            return _dotted(func) in EXITS
        case ast.If(body=body, orelse=orelse):
            return _ends_in_raise(body) and _ends_in_raise(orelse)
        case ast.With(body=body) | ast.AsyncWith(body=body):
            return _ends_in_raise(body)
        case (
            ast.Try(body=body, handlers=handlers, finalbody=final)
            | ast.TryStar(body=body, handlers=handlers, finalbody=final)
        ):
            caught_again = all(_ends_in_raise(handler.body) for handler in handlers)
            return _ends_in_raise(final) or (_ends_in_raise(body) and caught_again)
        case ast.Match(cases=cases):
            covers_all = any(
                isinstance(case.pattern, ast.MatchAs) and case.pattern.name is None for case in cases
            )
            return covers_all and all(_ends_in_raise(case.body) for case in cases)
        case _:
            return False


def _escapes(statement: ast.AST) -> bool:
    """Whether a statement can return, or break or continue a loop outside itself."""
    if isinstance(statement, ast.Return | ast.Break | ast.Continue):
        return True
    if isinstance(statement, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
        return False
    inner = [child for child in ast.iter_child_nodes(statement) if _escapes(child)]
    if isinstance(statement, LOOPS):
        return any(isinstance(node, ast.Return) for child in inner for node in ast.walk(child))
    return bool(inner)


def _is_silent(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass | ast.Continue):
        return True
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Constant):
        return True
    value = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
    return isinstance(value, ast.Call) and _last_name(value.func) in LOG_METHODS


def _own_nodes(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """Every statement and expression below `body`, without those of nested functions and nested handlers."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef, ast.ExceptHandler)):
            waiting.extend(ast.iter_child_nodes(node))


def _guarded_imports(tree: Tree) -> Iterator[Found]:
    for node in tree.nodes:
        if isinstance(node, ast.Call) and _last_name(node.func) == "find_spec":
            yield Found(node, "guarded-import", "a feature must not depend on what happens to be installed")
        if not isinstance(node, TRIES):
            continue
        swallowing = [
            handler
            for handler in node.handlers
            if _caught(handler) & IMPORT_FAILURES and not _always_raises(handler.body)
        ]
        if not swallowing:
            continue
        for inner in _own_nodes(node.body):
            if isinstance(inner, ast.Import | ast.ImportFrom) or (
                isinstance(inner, ast.Call) and _last_name(inner.func) in IMPORTERS
            ):
                yield Found(inner, "guarded-import", "its failure is caught and switches something off")


def _lookups(tree: Tree) -> Iterator[Found]:
    for call in tree.nodes:
        if not isinstance(call, ast.Call):
            continue
        name = _dotted(call.func)
        arguments = len(call.args) + sum(keyword.arg == "default" for keyword in call.keywords)
        if name.endswith(("getenv", "environ.get")) and arguments >= 2:
            yield Found(call, "environment-default", "a missing variable must be reported, not guessed")
        elif name == "getattr" and arguments >= 3:
            yield Found(call, "getattr-default", "the attribute is there by contract, or the type is wrong")
        elif name == "hasattr":
            yield Found(call, "hasattr", "ask the type, not the object")
        elif isinstance(call.func, ast.Attribute) and arguments >= 2:
            discarded = isinstance(tree.parents[call], ast.Expr)
            if call.func.attr == "get" or (call.func.attr == "pop" and not discarded):
                yield Found(call, "default-lookup", f".{call.func.attr} with a default hides a missing key")


def _suppressed_exceptions(tree: Tree) -> Iterator[Found]:
    for call in tree.nodes:
        if isinstance(call, ast.Call):
            name = _dotted(call.func)
            if name in tree.suppress_names or name == "contextlib.suppress":
                yield Found(call, "suppress", "the failure is dropped; raise, or act on it")


def _or_defaults(tree: Tree) -> Iterator[Found]:
    for node in tree.nodes:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            last = node.values[-1]
            nothing = isinstance(last, ast.Constant) and last.value is None
            if _is_literal(last) and not _is_truth(last) and not nothing:
                yield Found(
                    node, "or-default", f"`or {ast.unparse(last)}` replaces every empty value, 0 included"
                )


def _stubs(tree: Tree) -> Iterator[Found]:
    for function in tree.nodes:
        if not isinstance(function, FUNCTIONS) or _is_declaration(function, tree):
            continue
        if all(_is_nothing(statement) for statement in function.body):
            yield Found(function, "stub-body", f"{function.name} does nothing; build it or leave it out")


def _is_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Raise(
            exc=ast.Call(func=ast.Name(id="NotImplementedError")) | ast.Name(id="NotImplementedError")
        ):
            return True
        case _:
            return False


def _is_declaration(function: Function, tree: Tree) -> bool:
    decorators = {_last_name(decorator) for decorator in function.decorator_list}
    if decorators & {"abstractmethod", "overload"}:
        return True
    owner = tree.parents[function]
    if not isinstance(owner, ast.ClassDef):
        return False
    bases = (base.value if isinstance(base, ast.Subscript) else base for base in owner.bases)
    return "Protocol" in {_last_name(base) for base in bases}


def _constant_verdicts(tree: Tree) -> Iterator[Found]:
    for function in tree.nodes:
        if not isinstance(function, FUNCTIONS) or function.returns is None:
            continue
        body = [statement for statement in function.body if not _is_nothing(statement)]
        if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
            continue
        if ANSWERS.search(ast.unparse(function.returns)) and _always_passes(body[0].value):
            yield Found(function, "constant-verdict", f"{function.name} passes whatever it is asked")


def _always_passes(answer: ast.expr) -> bool:
    if isinstance(answer, ast.Constant):
        return answer.value is True
    if isinstance(answer, ast.Call):
        # A verdict whose every part is written down says the same about everything.
        parts = [*answer.args, *(keyword.value for keyword in answer.keywords)]
        passing = any(_last_name(part) == "PASS" for part in parts)
        return passing and all(_last_name(part) == "PASS" or _is_literal(part) for part in parts)
    return _last_name(answer) == "PASS"


def _is_truth(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _is_literal(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(operand=operand):
            return _is_literal(operand)
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return all(_is_literal(part) for part in parts)
        case ast.Dict(keys=keys, values=values):
            return all(key is not None and _is_literal(key) for key in keys) and all(map(_is_literal, values))
        case ast.Call(func=ast.Name(id=name), args=[], keywords=[]):
            return name in EMPTY_CONTAINERS
        case ast.Call(func=ast.Name(id="float" | "int" | "str"), args=[argument], keywords=[]):
            return _is_literal(argument)
        case _:
            return _dotted(node) in {"math.inf", "math.nan", "np.inf", "np.nan", "jnp.inf", "jnp.nan"}


def _dotted(node: ast.expr) -> str:
    """The dotted name an expression spells, with what is no name left out: `f().get` is `.get`."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _last_name(node: ast.expr) -> str:
    return _dotted(node.func if isinstance(node, ast.Call) else node).rpartition(".")[2]


RULES: tuple[Callable[[Tree], Iterator[Found]], ...] = (
    _handlers,
    _guarded_imports,
    _lookups,
    _suppressed_exceptions,
    _or_defaults,
    _stubs,
    _constant_verdicts,
)


def main(arguments: Sequence[str]) -> int:
    """Print what stands and what was suppressed below the paths named; 0 when nothing stands, else 1.

    Leaves with 2 when a path cannot be read or does not parse.
    """
    if not arguments:
        print("usage: python -m gaelp.audit.no_fallbacks PATH...", file=sys.stderr)
        return 2
    try:
        files = [file for argument in arguments for file in _python_files(Path(argument))]
        examined = [examine(file.read_text(encoding="utf-8"), str(file)) for file in files]
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        print(f"no-fallbacks: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    standing = [violation for one in examined for violation in one.violations]
    silenced = [suppression for one in examined for suppression in one.suppressions]
    for line in (*silenced, *standing):
        print(line)
    print(f"no-fallbacks: {len(files)} files, {len(standing)} violations, {len(silenced)} suppressions")
    return 1 if standing else 0


def _python_files(path: Path) -> list[Path]:
    """The Python files below a folder, or the one file named; FileNotFoundError when there is none."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"no Python file below {path}")
    return files


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
