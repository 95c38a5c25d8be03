"""Mutation testing: change the code a little, and see whether a test fails.

    python scripts/mutants.py --package search --sample 80
    python scripts/mutants.py --package search --survivors before.json
    python scripts/mutants.py --package search --from before.json

A mutant is one small change of one file: another comparison, a constant plus or minus one, a negated condition, a
dropped statement or keyword. It is killed if a test fails, and survives if none does. A survivor is a missing
assertion, unless the change makes no difference (an equivalent mutant). The script lists the survivors and prints a
table of the packages. ``--sample`` takes a random part of each package's mutants; the same seed takes the same ones,
also after changes elsewhere in the file.

The tests of a package run once under a line tracer. A mutant is then tested by the tests that reach its line, the
fastest first, up to ``--budget`` seconds, until one fails. torch is imported once: each mutant runs in a forked child
that imports the package with the mutated module in place. No file is changed. Tests that start a new program see the
original code.

Not mutated: docstrings, annotations, decorators, assertions, error messages, log calls, strings, and the defaults of
settings, which are choices.

Why not a maintained tool: mutmut 3.8 forks too, but skips decorated functions, among them every search and all else
that runs under ``torch.inference_mode`` or ``torch.no_grad``, and takes no sample. cosmic-ray 8.7 edits the files,
restarts the test command for each mutant (five seconds of imports here) and runs all tests of a package.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TRAINING = ("cross_entropy", "self_critical", "objective", "teacher")
# Of each package its code and its tests, files or folders.
PACKAGES: dict[str, tuple[list[str], list[str]]] = {
    "search": (["captioner/search"], ["tests/search", "tests/onnx/test_beam.py"]),
    "objectives": (
        [f"captioner/training/{name}.py" for name in TRAINING],
        [f"tests/training/test_{name}.py" for name in TRAINING] + ["tests/decoders/test_show_attend_tell.py"],
    ),
    "decoders": (["captioner/decoders"], ["tests/decoders", "tests/layers/test_segments.py"]),
    "layers": (["captioner/layers"], ["tests/layers"]),
    "evaluation": (["captioner/evaluation"], ["tests/evaluation", "tests/cli/test_evaluate.py"]),
    "data": (["captioner/data"], ["tests/data"]),
    "metadata": (["captioner/metadata"], ["tests/metadata"]),
}
# Imported once, before the children are forked: slow, and not part of the package.
PRELOADED = "torch torchvision.ops timm hypothesis pydantic lightning_fabric matplotlib.pyplot pytest PIL.Image yaml"

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
PAIRS = [("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"), ("sin", "cos")]
PAIRS += [("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("sum", "mean")]
NAMES = {name: other for pair in PAIRS for name, other in (pair, pair[::-1])}
SYMMETRIC = {"min", "max", "minimum", "maximum", "transpose", "swapaxes", "isclose"}  # in their first two arguments
LOGGERS = {"logger", "log", "logging", "warnings"}
# Keywords whose absence no test on a processor can notice, or that only guard against faults.
NOT_DROPPED = {"device", "encoding", "strict", "description", "help", "where", "daemon", "name", "non_blocking"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the bytes from ``start`` to ``end`` become ``new``."""

    file: str
    start: int
    end: int
    new: str
    lines: range  # of the statement
    key: str  # names the change by its text, not by its line number

    def source(self) -> str:
        """The mutated file."""
        text = (REPOSITORY / self.file).read_bytes()
        return (text[: self.start] + self.new.encode() + text[self.end :]).decode()

    def __str__(self) -> str:
        text = (REPOSITORY / self.file).read_bytes()
        line = text.count(b"\n", 0, self.start) + 1
        old = " ".join(text[self.start : self.end].decode().split())
        return f"{self.file}:{line}: {old}  ->  {self.new}"


class Mutator(ast.NodeVisitor):
    """Collects the mutants of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.text = (REPOSITORY / file).read_bytes()
        self.offsets = [0]
        for line in self.text.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))
        self.lines = range(0)
        self.seen: Counter[str] = Counter()
        self.mutants: list[Mutant] = []
        self.visit(ast.parse(self.text))

    def add(self, node: Any, new: ast.AST | str) -> None:
        """Note the mutant in which ``new`` takes the place of a node."""
        start = self.offsets[node.lineno - 1] + node.col_offset
        end = self.offsets[node.end_lineno - 1] + node.end_col_offset
        if isinstance(new, ast.expr):
            unparsed = ast.unparse(new)
            new = unparsed if isinstance(new, ast.Constant | ast.Name | ast.Call | ast.Subscript) else f"({unparsed})"
        elif isinstance(new, ast.AST):
            new = ast.unparse(new)
        first = self.text[self.offsets[node.lineno - 1] : self.offsets[node.lineno]].decode().strip()
        name = f"{self.file}|{first}|{self.text[start:end].decode()}|{new}"
        self.seen[name] += 1
        key = hashlib.sha256(f"{name}|{self.seen[name]}".encode()).hexdigest()[:16]
        lines = self.lines or range(node.lineno, node.end_lineno + 1)
        self.mutants.append(Mutant(self.file, start, end, new, lines, key))

    def change(self, node: ast.AST, **fields: Any) -> None:
        """Note the mutant in which a node has other fields."""
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        self.add(node, new)

    def visit(self, node: ast.AST) -> None:
        """Record the lines of a simple statement, any of which may be traced."""
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and not isinstance(node, ast.Match):
            self.lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            super().visit(node)
            self.lines = range(0)
        else:
            super().visit(node)

    def skip(self, node: ast.AST) -> None:
        """Leave a node out, with all that it holds."""

    visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = skip

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add(node, "pass")

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "TypeAlias" not in ast.unparse(node.annotation):
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.add(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(node, "pass")
        if type(node.op) in OPERATORS:
            self.change(node, op=OPERATORS[type(node.op)]())
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not _is_log(node.value):
            self.add(node, "pass")
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.add(node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add(node, "break")
        self.add(node, "pass")

    def _visit_condition(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.negate(node.test)
        self.generic_visit(node)

    visit_If = visit_While = visit_IfExp = _visit_condition

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self.negate(condition)
        self.generic_visit(node)

    def negate(self, condition: ast.expr) -> None:
        """Note the mutant in which a condition is its opposite, where no other operator makes that one."""
        opposite = ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn
        compared = condition.ops if isinstance(condition, ast.Compare) else []
        if isinstance(condition, ast.UnaryOp) or (len(compared) == 1 and isinstance(compared[0], opposite)):
            return
        self.add(condition, ast.UnaryOp(ast.Not(), condition))

    def visit_Compare(self, node: ast.Compare) -> None:
        for i, op in enumerate(node.ops):
            self.change(node, ops=[*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1 :]])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.change(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in OPERATORS and not isinstance(node.left, ast.JoinedStr):
            self.change(node, op=OPERATORS[type(node.op)]())
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.add(node, node.operand)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.change(node, value=not node.value)
        elif isinstance(node.value, int | float):
            self.change(node, value=node.value + 1)
            self.change(node, value=node.value - 1)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES and isinstance(node.ctx, ast.Load):
            self.change(node, id=NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in NAMES and isinstance(node.ctx, ast.Load):
            self.change(node, attr=NAMES[node.attr])
        self.visit(node.value)

    def visit_Slice(self, node: ast.Slice) -> None:
        for end in ("lower", "upper"):
            if getattr(node, end) is not None:
                new = copy.copy(node)
                setattr(new, end, None)
                self.add(node, ast.unparse(new))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if _is_log(node) or name in ("cast", "TypeVar"):
            return
        if name == "Field":  # its default and description are choices
            for keyword in node.keywords:
                if keyword.arg in ("ge", "gt", "le", "lt"):
                    self.visit(keyword.value)
            return
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in NOT_DROPPED:
                self.change(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
        called = node.func.attr if isinstance(node.func, ast.Attribute) else name
        order = called not in SYMMETRIC and not any(isinstance(each, ast.Starred) for each in node.args[:2])
        if order and len(node.args) >= 2 and ast.dump(node.args[0]) != ast.dump(node.args[1]):
            self.change(node, args=[node.args[1], node.args[0], *node.args[2:]])
        self.visit(node.func)
        for part in [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg not in NOT_DROPPED)]:
            self.visit(part)


def _is_log(call: ast.Call) -> bool:
    root: ast.expr = call.func
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in LOGGERS


class Replace(importlib.abc.MetaPathFinder):
    """Imports one module from the text of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self.path = REPOSITORY / mutant.file
        self.code = compile(mutant.source(), str(self.path), "exec", dont_inherit=True)
        name = ".".join(Path(mutant.file).with_suffix("").parts)
        self.name = name.removesuffix(".__init__")

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        code = self.code

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                return code

        return importlib.util.spec_from_file_location(name, self.path, loader=Loader(name, str(self.path)))


class Plugin:
    """Chooses and orders the tests of a pytest session, and keeps what came out."""

    def __init__(self, chosen: list[str] | None = None) -> None:
        self.chosen = chosen
        self.failed: list[str] = []
        self.seconds: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.chosen is not None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in self.chosen if name in by_name]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def _tracing(plugin: Plugin, files: list[str]) -> tuple[Any, dict[str, set[tuple[str, int]]]]:
    """Return a plugin that traces which lines of the files each test reaches, and its results."""
    import pytest

    lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
    short = {str(REPOSITORY / file): file for file in files}
    current: list[set[tuple[str, int]]] = [set()]

    def each_line(frame: FrameType, event: str, _: Any) -> Any:
        current[-1].add((short[frame.f_code.co_filename], frame.f_lineno))
        return each_line

    def each_call(frame: FrameType, event: str, _: Any) -> Any:
        return each_line if frame.f_code.co_filename in short else None

    class Tracing:
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
            current.append(lines[item.nodeid])
            threading.settrace(each_call)
            sys.settrace(each_call)
            yield
            sys.settrace(None)
            current.pop()

        @pytest.hookimpl(hookwrapper=True)
        def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
            # A fixture that several tests share runs in the first; its lines are reached by all tests of the file.
            shared = fixturedef.scope != "function"
            if shared:
                current.append(lines[request.node.nodeid.split("::")[0]])
            yield
            if shared:
                current.pop()

    return Tracing(), lines


def _pytest(tests: list[str], plugins: list[Any], *options: str) -> int:
    import pytest

    fixed = ["-q", "-o", "addopts=", "-m", "not slow", "--import-mode=importlib", "-p", "no:cacheprovider"]
    return int(pytest.main([*fixed, "--hypothesis-seed=0", "-p", "no:xdist", *options, *tests], plugins))


def fork(work: Callable[[], Any], seconds: float, log: Path) -> Any:
    """Run a function in a child and return its result, or ``None`` if it took too long.

    Args:
        work: its result is pickled.
        seconds: most seconds on a processor; waiting may take three times as long.
        log: file for what the child prints.
    """
    result = log.with_suffix(".pickle")
    result.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
        try:
            found = work()
        except BaseException as error:  # a mutated module that cannot be imported may raise anything
            found = repr(error)
        result.write_bytes(pickle.dumps(found))
        os._exit(0)
    until = time.monotonic() + 3 * seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # processes that the child started
    return pickle.loads(result.read_bytes()) if result.exists() else None


def python_files(names: list[str]) -> list[str]:
    """List the files of files and folders."""
    paths = [REPOSITORY / name for name in names]
    found = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return [str(file.relative_to(REPOSITORY)) for file in found if file.exists()]


class Package:
    """The mutants of a package and the tests that reach them."""

    def __init__(self, name: str, scratch: Path) -> None:
        code, tests = PACKAGES[name]
        self.log = scratch / "log"
        self.tests = [test for test in tests if (REPOSITORY / test).exists()]
        files = python_files(code)
        self.mutants = [mutant for file in files for mutant in Mutator(file).mutants]

        def trace() -> tuple[dict[str, set[tuple[str, int]]], Counter[str], list[str]]:
            plugin = Plugin()
            tracing, lines = _tracing(plugin, files)
            _pytest(self.tests, [plugin, tracing])
            return dict(lines), plugin.seconds, plugin.failed

        traced = fork(trace, 1200, self.log)
        if not isinstance(traced, tuple):
            sys.exit(f"the tests of {name} do not run: {traced}\n{self.log.read_text()[-2000:]}")
        lines, self.seconds, failed = traced
        if failed:
            print(f"{name}: left out, since they fail without a mutant: {', '.join(failed)}", file=sys.stderr)
        self.lines = {
            test: reached | lines.get(test.split("::")[0], set())
            for test, reached in lines.items()
            if "::" in test and test not in failed
        }

    def chosen(self, mutant: Mutant, budget: float) -> list[str]:
        """List the tests that reach a mutant, the fastest first; for code that runs on import, all of the package."""
        at = {(mutant.file, line) for line in mutant.lines}
        tests = [test for test, reached in self.lines.items() if reached & at]
        tests = tests or list(self.lines)
        tests.sort(key=lambda test: self.seconds[test])
        total = 0.0
        chosen: list[str] = []
        for test in tests:
            total += self.seconds[test]
            if chosen and total > budget:
                break
            chosen.append(test)
        return chosen

    def outcome(self, mutant: Mutant, budget: float) -> str:
        """Return "killed", "survived", "timeout" or "unreached"."""
        chosen = self.chosen(mutant, budget)
        if not chosen:
            return "unreached"

        def work() -> bool:
            sys.meta_path.insert(0, Replace(mutant))
            plugin = Plugin(chosen)
            code = _pytest(sorted({test.split("::")[0] for test in chosen}), [plugin], "-x")
            return code == 0

        passed = fork(work, 20 + 5 * sum(self.seconds[test] for test in chosen), self.log)
        return "timeout" if passed is None else "survived" if passed is True else "killed"


def main() -> None:
    """Read the command line, test the mutants, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--package", choices=list(PACKAGES), action="append", help="may be repeated; all packages without it"
    )
    parser.add_argument("--sample", type=int, default=80, help="mutants of each package; 0 takes all")
    parser.add_argument("--seed", default="0", help="of the sample")
    parser.add_argument("--file", help="only mutants of files whose name contains this")
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests for one mutant")
    parser.add_argument("--survivors", type=Path, help="file to write the survivors to")
    parser.add_argument("--from", dest="again", type=Path, help="only the survivors in this file")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    os.nice(10)
    sys.path.insert(0, str(REPOSITORY))
    scratch = Path(tempfile.mkdtemp(prefix="mutants-"))
    os.environ.update(HYPOTHESIS_STORAGE_DIRECTORY=str(scratch / "hypothesis"), OMP_NUM_THREADS="1", MPLBACKEND="agg")
    for name in PRELOADED.split():
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)  # a child cannot use threads that were started before the fork

    wanted = set(json.loads(arguments.again.read_text())) if arguments.again else None
    table: list[str] = []
    survivors: list[str] = []
    for name in arguments.package or PACKAGES:
        package = Package(name, scratch)
        mutants = [mutant for mutant in package.mutants if (arguments.file or "") in mutant.file]
        if wanted is not None:
            mutants = [mutant for mutant in mutants if mutant.key in wanted]
        elif arguments.sample:
            mutants.sort(key=lambda mutant: hashlib.sha256(f"{arguments.seed}{mutant.key}".encode()).hexdigest())
            mutants = mutants[: arguments.sample]
        mutants.sort(key=lambda mutant: (mutant.file, mutant.start))
        outcomes: Counter[str] = Counter()
        for mutant in mutants:
            outcome = package.outcome(mutant, arguments.budget)
            outcomes[outcome] += 1
            if outcome in ("survived", "unreached"):
                survivors.append(mutant.key)
                print(f"{outcome}: {mutant}", flush=True)
        killed = outcomes["killed"] + outcomes["timeout"]
        counts = f"{len(mutants):>8}{killed:>8}{outcomes['timeout']:>10}{len(mutants) - killed:>10}"
        table.append(f"{name:<12}{counts}{killed / max(1, len(mutants)):>8.0%}")
        print(f"{name}: {len(package.mutants)} mutants in all; {killed} of {len(mutants)} killed", flush=True)
    print(f"\n{'package':<12}{'mutants':>8}{'killed':>8}{'timeouts':>10}{'survived':>10}{'share':>8}", *table, sep="\n")
    if arguments.survivors:
        arguments.survivors.write_text(json.dumps(survivors))


if __name__ == "__main__":
    main()
