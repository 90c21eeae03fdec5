"""The import rules of the house, held by reading the source: nothing of Senryu is imported here.

The rules are the tables below; a breach reads `file:line: what, and where it belongs`. Each rule is also
shown a small tree that breaks it, so that a rule which no longer bites fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "senryu"

# From the bottom up. A module imports from the layers below its own. "senryu" is the package's __init__.
LAYERS = (
    {"senryu", "types", "errors"},
    {"background", "calibration", "config", "config_vars", "logs", "metrics", "tally", "wordpiece"},
    {
        "admission",
        "batcher",
        "directory",
        "encoders",
        "engine",
        "fairqueue",
        "models",
        "outputs",
        "pace",
        "pull",
        "ratelimit",
        "store",
        "tokenizer",
        "usage",
    },
    {"shelf"},
    {"pipeline"},
    {"body", "dialects", "exchange", "heads", "openapi", "pages", "patience", "transport"},
    {"app", "bench", "faults", "line", "protocol", "quantization", "routes", "verify"},
    {"server"},
    {"cli"},
    {"__main__"},
)
# Neighbours of its own layer that a module may know besides, and why.
NEIGHBOURS = {
    ("admission", "directory"): "which key may use what",
    ("admission", "ratelimit"): "what a key may spend a minute",
    ("admission", "usage"): "who is told what was used",
    ("app", "faults"): "what an exception becomes",
    ("app", "routes"): "which endpoint answers on which path",
    ("batcher", "engine"): "the protocol of what runs a batch",
    ("batcher", "fairqueue"): "the order in which texts wait",
    ("batcher", "pace"): "how much a batch of an engine holds",
    ("body", "patience"): "how long it may take",
    ("exchange", "body"): "an exchange has a body",
    ("faults", "routes"): "which dialect a path speaks",
    ("engine", "encoders"): "an engine builds what an encoder describes",
    ("engine", "models"): "an engine is opened for one model",
    ("engine", "outputs"): "vectors of length 1, all of a batch at once",
    ("metrics", "tally"): "what the event loop counts with",
    ("protocol", "line"): "what a request and its answer go over",
    ("pull", "engine"): "whether an encoder computes a model, or its exported graph is needed",
    ("pull", "models"): "what to fetch, and its hashes",
    ("quantization", "bench"): "taking turns at measuring",
    ("quantization", "verify"): "a vector a text, computed together; rank correlation",
    ("tokenizer", "models"): "prompts and lengths are the model's",
}
# Where a package from outside may be imported; the empty set means nowhere.
OUTSIDE: dict[str, set[str]] = {
    "click": {"cli"},
    "httptools": {"protocol"},
    "huggingface_hub": {"pull"},
    "openvino": {"engine"},
    "prometheus_client": {"metrics", "tally"},
    "psycopg": {"store"},
    "sentence_transformers": set(),
    "sqlalchemy": {"store"},
    "tokenizers": {"tokenizer", "wordpiece"},
    "tomllib": {"config"},
    "torch": {"engine"},
    "transformers": set(),
    "uvicorn": {"line", "protocol", "server"},
}
# Who may read what the process was started with: cli is the composition root and hands it to config.
PROCESS_INPUTS = {name: {"config", "cli"} for name in ("os.environ", "os.environb", "os.getenv", "sys.argv")}
# Who may say the wire's own words, in code or in texts. Docstrings may speak of them.
WIRE_WORDS = {
    "encoding_format": {"dialects", "openapi", "pages", "cli"},
    "invalid_request_error": {"dialects", "openapi", "pages", "cli"},
}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the package, parsed."""

    path: str  # below src/senryu, with slashes
    lines: int
    tree: ast.Module

    @property
    def parts(self) -> tuple[str, ...]:
        parts = PurePosixPath(self.path).with_suffix("").parts
        return parts[:-1] if parts[-1] == "__init__" else parts

    @property
    def unit(self) -> str:
        return self.parts[0] if self.parts else "senryu"


Rule = Callable[[list[Module]], Iterator[str]]


def read(package: Path) -> list[Module]:
    """Parse every Python file under `package`."""
    sources = ((path, path.read_text("utf-8")) for path in sorted(package.rglob("*.py")))
    return [
        Module(path.relative_to(package).as_posix(), len(source.splitlines()), ast.parse(source, str(path)))
        for path, source in sources
    ]


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import in the file, relative ones resolved."""
    package = ("senryu", *module.parts)
    if not module.path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                base += [source] if source else []
                yield from ((node.lineno, ".".join([*base, alias.name])) for alias in names)
            case ast.Call(func=ast.Name(id=f) | ast.Attribute(attr=f), args=[ast.Constant(value=target), *_]):
                if f in ("import_module", "__import__"):
                    yield node.lineno, str(target)


def own_imports(module: Module, modules: list[Module]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield line and module path of what is imported from Senryu; () is the package's __init__."""
    known = {each.parts[:end] for each in modules for end in range(len(each.parts) + 1)}
    for line, name in imports(module):
        root, *parts = name.split(".")
        if root != "senryu":
            continue
        while tuple(parts) not in known:
            parts.pop()
        yield line, tuple(parts)


def layer_of(unit: str) -> int | None:
    return next((depth for depth, layer in enumerate(LAYERS) if unit in layer), None)


def upward_imports(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        here = layer_of(module.unit)
        if here is None:
            yield f"{module.path}:1: {module.unit!r} has no layer; give it one in LAYERS"
            continue
        for line, parts in own_imports(module, modules):
            unit = parts[0] if parts else "senryu"
            below = layer_of(unit)
            if unit == module.unit or (module.unit, unit) in NEIGHBOURS or below is None:
                continue
            if below >= here:
                yield f"{module.path}:{line}: imports {unit}, which is not below {module.unit}"


def imports_of_the_lowest_layer(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.unit in LAYERS[0]:
            for line, parts in own_imports(module, modules):
                yield f"{module.path}:{line}: imports {'.'.join(parts) or 'senryu'}; it knows nothing of ours"


def imports_of_encoders(modules: list[Module]) -> Iterator[str]:
    allowed = {("types",), ("errors",)}
    for module in modules:
        if module.unit != "encoders" or module.parts == ("encoders",):
            continue
        for line, parts in own_imports(module, modules):
            sibling = parts[:1] == ("encoders",) and len(parts) > 1 and module.parts != ("encoders", "ops")
            if parts not in allowed and not sibling:
                yield f"{module.path}:{line}: imports {'.'.join(parts)}; it knows siblings, types, errors"


def outside_imports(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for line, name in imports(module):
            package = name.split(".")[0]
            if package in OUTSIDE and module.unit not in OUTSIDE[package]:
                yield f"{module.path}:{line}: imports {package}; {only(OUTSIDE[package])}"


def process_inputs(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        reads = [
            (node.lineno, f"{node.value.id}.{node.attr}")
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        ]
        for line, name in [*reads, *imports(module)]:
            if name in PROCESS_INPUTS and module.unit not in PROCESS_INPUTS[name]:
                yield f"{module.path}:{line}: reads {name}; {only(PROCESS_INPUTS[name])}"


def wire_words(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for line, text in words(module.tree):
            for word, allowed in WIRE_WORDS.items():
                if word in text and module.unit not in allowed:
                    yield f"{module.path}:{line}: says {word}; {only(allowed)}"


def words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every string and name of a file with its line, docstrings left out."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.arg(arg=text) | ast.keyword(arg=text):
                yield node.lineno, text or ""


def missing_docstrings(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if not ast.get_docstring(module.tree):
            yield f"{module.path}:1: has no docstring; say what it knows and what it must not know"


def long_files(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.lines > LONGEST_FILE:
            yield f"{module.path}:1: has {module.lines} lines, over {LONGEST_FILE}; it hides two things"


def long_functions(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    where = f"{module.path}:{node.lineno}"
                    yield f"{where}: {node.name} has {lines} lines, over {LONGEST_FUNCTION}"


def only(units: set[str]) -> str:
    return f"only {', '.join(sorted(units))} may" if units else "no module may"


RULES: tuple[Rule, ...] = (
    upward_imports,
    imports_of_the_lowest_layer,
    imports_of_encoders,
    outside_imports,
    process_inputs,
    wire_words,
    missing_docstrings,
    long_files,
    long_functions,
)


@cache
def read_package() -> list[Module]:
    return read(PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    modules = read_package()
    assert {"types", "errors", "config"} <= {module.unit for module in modules}
    assert list(rule(modules)) == []


@pytest.mark.parametrize("pair", NEIGHBOURS, ids=" → ".join)
def test_an_exception_is_dropped_when_nothing_needs_it(pair: tuple[str, str]) -> None:
    modules = read_package()
    users = [module for module in modules if module.unit == pair[0]]
    assert any(pair[1:] == parts[:1] for module in users for _, parts in own_imports(module, modules))


def long_function(lines: int) -> str:
    return "def f():\n" + "    x = 1\n" * (lines - 1)


TREE = {
    "__init__.py": '"""D."""\n__version__ = "1"\n',
    "types.py": '"""D."""\nimport enum\n',
    "errors.py": '"""D."""\n',
    "config.py": '"""encoding_format."""\nimport os, tomllib\nfrom senryu import errors\nos.environ\n',
    "models.py": '"""D."""\nfrom .errors import A\n' + long_function(60),
    "store.py": '"""D."""\nimport sqlalchemy as sa\n',
    "encoders/__init__.py": '"""D."""\nfrom senryu.encoders import bert\n',
    "encoders/ops.py": '"""D."""\nfrom ..types import Ids\n',
    "encoders/bert.py": '"""D."""\nfrom senryu.encoders.ops import Ops\n',
    "engine/__init__.py": '"""D."""\nfrom senryu.models import ModelSpec\n',
    "engine/openvino.py": '"""D."""\nimport openvino\nfrom senryu import encoders\nfrom . import weights\n',
    "engine/weights.py": '"""D."""\n',
    "outputs.py": '"""D."""\n' + "x = 1\n" * 399,
    "pipeline.py": '"""D."""\nfrom senryu.engine import Engine\n',
    "dialects/heroku.py": '"""D."""\nfrom senryu.pipeline import P\nx = {"encoding_format": 1}\n',
    "cli/__init__.py": '"""D."""\nimport os, click\nfrom senryu import pipeline\nos.environ\n',
}
BREACHES = [
    ("upward_imports", "models.py", "from senryu.pipeline import Pipeline"),
    ("upward_imports", "models.py", "from senryu import cli"),
    ("upward_imports", "models.py", "from .cli import main"),
    ("upward_imports", "models.py", "import senryu.store"),
    ("upward_imports", "models.py", "def f():\n    from senryu.engine import Engine"),
    ("upward_imports", "store.py", "import_module('senryu.models')"),
    ("upward_imports", "engine/weights.py", "from ..pipeline import P"),
    ("upward_imports", "dialects/cohere.py", '"""D."""\nfrom senryu.cli import main'),
    ("upward_imports", "helpers.py", '"""D."""'),
    ("imports_of_the_lowest_layer", "types.py", "from senryu.errors import A"),
    ("imports_of_the_lowest_layer", "errors.py", "import senryu"),
    ("imports_of_the_lowest_layer", "__init__.py", "from senryu.types import A"),
    ("imports_of_encoders", "encoders/bert.py", "from senryu.models import ModelSpec"),
    ("imports_of_encoders", "encoders/bert.py", "from senryu import encoders"),
    ("imports_of_encoders", "encoders/ops.py", "from .bert import Bert"),
    ("outside_imports", "pipeline.py", "import openvino.runtime"),
    ("outside_imports", "pipeline.py", "importlib.import_module('openvino')"),
    ("outside_imports", "models.py", "from torch import nn"),
    ("outside_imports", "models.py", "import huggingface_hub"),
    ("outside_imports", "engine/openvino.py", "import transformers"),
    ("outside_imports", "engine/openvino.py", "from sentence_transformers import models"),
    ("outside_imports", "cli/__init__.py", "from sqlalchemy.engine import Engine"),
    ("outside_imports", "models.py", "import tomllib"),
    ("outside_imports", "pipeline.py", "import click"),
    ("outside_imports", "cli/__init__.py", "import uvicorn"),
    ("outside_imports", "pipeline.py", "from tokenizers import Tokenizer"),
    ("outside_imports", "pipeline.py", "import prometheus_client"),
    ("process_inputs", "models.py", "import os\nx = os.environ.get('HOME')"),
    ("process_inputs", "models.py", "from os import getenv"),
    ("process_inputs", "engine/weights.py", "import sys\nx = sys.argv[1:]"),
    ("wire_words", "pipeline.py", "x = {'encoding_format': 1}"),
    ("wire_words", "pipeline.py", "raise ValueError(f'encoding_format: {1}')"),
    ("wire_words", "pipeline.py", "def f(encoding_format): ..."),
    ("wire_words", "models.py", "x = 'invalid_request_error'"),
    ("missing_docstrings", "cli/serve.py", "x = 1"),
    ("missing_docstrings", "cli/empty.py", ""),
    ("long_files", "outputs.py", "x = 1"),
    ("long_functions", "store.py", long_function(61)),
    ("long_functions", "store.py", "class A:\n    async " + "\n    ".join(long_function(61).splitlines())),
]


def write(package: Path, tree: dict[str, str]) -> list[Module]:
    for path, source in tree.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(source, "utf-8")
    return read(package)


def test_a_tree_that_keeps_the_rules_has_no_breach(tmp_path: Path) -> None:
    modules = write(tmp_path, TREE)
    assert [breach for rule in RULES for breach in rule(modules)] == []


@pytest.mark.parametrize(("rule", "path", "addition"), BREACHES)
def test_a_breach_is_found_by_its_rule_alone(rule: str, path: str, addition: str, tmp_path: Path) -> None:
    modules = write(tmp_path, TREE | {path: TREE.get(path, "") + addition + "\n"})
    found = {each.__name__: breaches for each in RULES if (breaches := list(each(modules)))}
    expected = {rule, "upward_imports"} if rule.startswith("imports_of") else {rule}
    assert rule in found
    assert found.keys() <= expected
    assert all(breach.startswith(f"{path}:") for breaches in found.values() for breach in breaches)


def test_every_rule_is_shown_a_breach() -> None:
    assert {rule for rule, _, _ in BREACHES} == {rule.__name__ for rule in RULES}
