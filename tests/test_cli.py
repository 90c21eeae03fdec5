"""The command as a person and a shell meet it: real store, real processes, a stand-in for the server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from senryu import __version__, config_vars
from senryu.cli import SUBCOMMANDS, Lazy, LazyGroup, main
from senryu.config import Paths
from senryu.errors import SettingError
from senryu.models import catalog
from senryu.store import Store
from senryu.types import Resource

KEY = "inf-of-the-test-0123456789"
DOCUMENTED_LINE = (
    "eval $(senryu config{app} --shell | grep '^EMBEDDING_' | sed 's/^/export /' | tee >(cat >&2))"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def paths(home: Path) -> Paths:
    return Paths.from_environ({"SENRYU_HOME": str(home)})


def provision(paths: Paths, url: str, *, app: str = "default", alias: str = "EMBEDDING") -> Resource:
    with Store.open(paths.database) as store:
        resource = store.create_resource("all-minilm-l6-v2")
        store.attach(resource.id, app=app, alias=alias)
    names = config_vars.names(alias)
    values = {names.url: url, names.key: KEY, names.model_id: resource.model_id}
    config_vars.update(paths.config_vars, app, values)
    return resource


def run(*argv: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, argv, input=stdin, prog_name="senryu")


def shown(*argv: str, stdin: bytes | None = None) -> str:
    result = run(*argv, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refused(*argv: str, code: int = 1) -> str:
    result = run(*argv)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    if code == 1:
        assert result.stderr.startswith("senryu: ")
        assert result.stderr.count("\n") == 1
    return result.stderr


def python(*argv: str, **given: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, **given)


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        assert command is not None
        yield f"{name} {child}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {child}".strip())


class Stand(BaseHTTPRequestHandler):
    """Answers in the contract's shape, from what the test put on its server, and keeps what it was asked."""

    server: StandServer

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def answer(self, body: Any) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        status, content, headers = self.server.answers[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Keep standard error for the command under test."""


class StandServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Stand)
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, content: Any, status: int = 200, **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers[path] = (status, raw, headers)


@pytest.fixture
def stand() -> Iterator[StandServer]:
    with StandServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """An address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# The command itself


def test_every_subcommand_has_help_with_an_example() -> None:
    found = dict(commands(main))
    assert {
        "serve",
        "pull",
        "models",
        "models list",
        "models create",
        "models info",
        "models call",
        "config",
    } <= found.keys()
    for name in ("", *found):
        text = shown(*name.split(), "--help")
        usage, *rest = text.splitlines()
        assert usage.startswith(f"Usage: senryu {name}".rstrip())
        assert [line for line in rest if line.startswith(f"    senryu {name}".rstrip())], f"{name} --help"


def test_the_help_lists_every_subcommand_and_imports_none() -> None:
    code = (
        "import sys\nfrom senryu.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.startswith('senryu')), file=sys.stderr)\n"
        "print({'numpy', 'sqlalchemy', 'rich', 'openvino', 'asyncio'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = python("-c", code)
    assert done.stderr == "['senryu', 'senryu.cli', 'senryu.cli.output', 'senryu.errors']\nset()\n"
    for name, lazy in SUBCOMMANDS.items():
        assert f"  {name} " in done.stdout
        assert lazy.help in done.stdout


def test_config_imports_neither_the_database_nor_numpy(home: Path) -> None:
    code = (
        "import sys\nfrom senryu.cli import main\ntry: main(['config'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'sqlalchemy', 'rich', 'openvino'} & sys.modules.keys())"
    )
    assert python("-c", code).stdout == "set()\n"


def test_an_unknown_subcommand_is_a_usage_error() -> None:
    assert "No such command 'severe'" in refused("severe", code=2)


def group_that(raises: BaseException) -> LazyGroup:
    @click.command()
    def fail() -> None:
        raise raises

    globals()["failing_command"] = fail
    return LazyGroup("senryu", table={"fail": Lazy(f"{__name__}:failing_command", "Fail.")})


def test_a_setup_error_is_one_line_and_exit_code_1() -> None:
    result = CliRunner().invoke(group_that(SettingError("--port: 'x'\nis not allowed.")), ["fail"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "senryu: --port: 'x' is not allowed.\n"


def test_any_other_error_keeps_its_traceback() -> None:
    error = ZeroDivisionError("a fault of ours")
    assert CliRunner().invoke(group_that(error), ["fail"]).exception is error


def test_ctrl_c_ends_with_130_and_no_traceback(paths: Paths) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provision(paths, f"http://127.0.0.1:{silent.getsockname()[1]}")
        waiting = subprocess.Popen(
            [sys.executable, "-m", "senryu", "models", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        connection, _ = silent.accept()
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=60) == (b"", b"")
        connection.close()
    assert waiting.returncode == 130


def test_a_reader_that_went_away_is_no_news(paths: Paths, nobody: str) -> None:
    provision(paths, nobody)
    for argv in (["models", "list"], ["models", "list", "--json"], ["config"], ["version"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as gone:
            done = subprocess.run(
                [sys.executable, "-m", "senryu", *argv], stdout=gone, stderr=subprocess.PIPE, timeout=60
            )
        assert done.stderr == b""


# version


def test_version_names_what_can_change_a_vector() -> None:
    lines = dict(line.split(" ", 1) for line in shown("version").splitlines())
    assert lines.keys() == {"senryu", "python", "openvino", "tokenizers"}
    assert lines["senryu"] == __version__
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(shown("version", "--json")) == lines
    assert shown("--version") == shown("version")


def test_version_does_not_import_what_it_names() -> None:
    code = (
        "import sys\nfrom senryu.cli import main\ntry: main(['version'])\nexcept SystemExit: pass\n"
        "print({'openvino', 'tokenizers'} & sys.modules.keys(), file=sys.stderr)"
    )
    assert python("-c", code).stderr == "set()\n"


# config


def test_config_lists_the_variables_of_an_app(paths: Paths) -> None:
    provision(paths, "http://127.0.0.1:8080")
    assert shown("config").splitlines() == [
        "=== default Config Vars",
        f"EMBEDDING_KEY:      {KEY}",
        "EMBEDDING_MODEL_ID: all-minilm-l6-v2",
        "EMBEDDING_URL:      http://127.0.0.1:8080",
    ]


def test_config_prints_one_value_alone(paths: Paths) -> None:
    provision(paths, "http://127.0.0.1:8080")
    assert shown("config", "EMBEDDING_KEY") == KEY + "\n"
    assert shown("config", "EMBEDDING_KEY", "--shell") == f"EMBEDDING_KEY={KEY}\n"
    assert json.loads(shown("config", "EMBEDDING_KEY", "--json")) == {"EMBEDDING_KEY": KEY}


def test_config_keeps_apps_apart(paths: Paths) -> None:
    provision(paths, "http://one")
    provision(paths, "http://two", app="shop")
    for flags in (["-a", "shop"], ["--app", "shop"], ["--app=shop"]):
        assert shown("config", *flags, "EMBEDDING_URL") == "http://two\n"
    assert json.loads(shown("config", "-a", "shop", "--json")) == config_vars.read(paths.config_vars, "shop")


def test_a_shell_reads_back_every_value(paths: Paths) -> None:
    values = {"A_KEY": 'it\'s $HOME `x` "y"', "B_KEY": "two\nlines", "C_KEY": "", "D_KEY": "plain-1.0"}
    config_vars.update(paths.config_vars, "default", values)
    text = shown("config", "--shell")
    assert "D_KEY=plain-1.0\n" in text
    script = text + 'printf \'%s\\0\' "$A_KEY" "$B_KEY" "$C_KEY" "$D_KEY"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == list(values.values())


@pytest.mark.parametrize(("app", "url"), [("", "http://one"), (" -a $APP_NAME", "http://two")])
def test_the_documented_line_works_in_bash(paths: Paths, tmp_path: Path, app: str, url: str) -> None:
    provision(paths, "http://one")
    provision(paths, "http://two", app="shop")
    config_vars.update(paths.config_vars, "shop", {"OTHER_KEY": "must not be exported"})
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "senryu").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m senryu "$@"\n')
    (bin_ / "senryu").chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    line = DOCUMENTED_LINE.format(app=app) + "\nenv | grep -E '^(EMBEDDING|OTHER)_' | sort"
    environ = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "APP_NAME": "shop"}
    done = subprocess.run([bash, "-c", line], capture_output=True, text=True, env=environ, timeout=60)
    assert done.stdout.splitlines() == [
        f"EMBEDDING_KEY={KEY}",
        "EMBEDDING_MODEL_ID=all-minilm-l6-v2",
        f"EMBEDDING_URL={url}",
    ]
    assert done.stderr.splitlines() == [f"export {line}" for line in done.stdout.splitlines()]


def test_config_before_the_first_start_says_what_to_run(home: Path) -> None:
    assert "`senryu serve`" in refused("config")
    assert "`senryu serve`" in refused("config", "--shell")
    assert not home.exists()


def test_config_says_which_apps_and_names_there_are(paths: Paths) -> None:
    provision(paths, "http://one")
    provision(paths, "http://two", app="shop")
    assert "no app 'blog'; there are: default, shop" in refused("config", "-a", "blog")
    assert "no app '--shell'" in refused("config", "-a", "--shell")
    message = refused("config", "EMBEDDING_URI")
    assert "'EMBEDDING_URI'" in message
    assert "EMBEDDING_KEY, EMBEDDING_MODEL_ID, EMBEDDING_URL" in message
    assert KEY not in message


def test_config_of_two_formats_is_a_usage_error(paths: Paths) -> None:
    assert "--shell and --json" in refused("config", "--shell", "--json", code=2)


def test_a_damaged_config_var_file_is_one_line(paths: Paths) -> None:
    paths.config_vars.parent.mkdir()
    paths.config_vars.write_text("{")
    assert str(paths.config_vars) in refused("config")


# models list


def test_models_are_listed_with_their_attachments(paths: Paths, nobody: str) -> None:
    one = provision(paths, nobody)
    two = provision(paths, nobody, app="shop", alias="ANSWERS")
    with Store.open(paths.database) as store:
        store.attach(one.id, app="shop", alias="EMBEDDING")
        bare = store.create_resource("all-minilm-l6-v2", name="a-name-of-no-app")
    head, *rows = [line.split() for line in shown("models", "list").splitlines()]
    assert head == ["Resource", "Model", "Alias", "App", "Created"]
    assert [row[:4] for row in rows[:3]] == [
        [one.name, "all-minilm-l6-v2", "EMBEDDING", "default"],
        [one.name, "all-minilm-l6-v2", "EMBEDDING", "shop"],
        [two.name, "all-minilm-l6-v2", "ANSWERS", "shop"],
    ]
    assert rows[0][4] == one.created_at.strftime("%Y-%m-%d")
    assert rows[3][:2] == [bare.name, "all-minilm-l6-v2"]


def test_models_are_listed_as_json(paths: Paths, nobody: str) -> None:
    made = provision(paths, nobody)
    assert json.loads(shown("models", "list", "--json")) == [
        {
            "id": made.id,
            "name": made.name,
            "model_id": "all-minilm-l6-v2",
            "max_inputs": 96,
            "max_chars": 2048,
            "served_names": [],
            "created_at": made.created_at.isoformat(),
            "attachments": [{"app": "default", "alias": "EMBEDDING"}],
        }
    ]


def test_a_created_resource_gets_a_key_and_config_vars_of_its_own(paths: Paths, nobody: str) -> None:
    provision(paths, nobody)
    result = run(
        "models", "create", "sentence-transformers/all-MiniLM-L6-v2", "-a", "shop", "--served-name", "b/c"
    )
    assert result.exit_code == 0, result.output
    values = config_vars.read(paths.config_vars, "shop")
    assert sorted(values) == ["INFERENCE_KEY", "INFERENCE_MODEL_ID", "INFERENCE_URL"]
    assert (values["INFERENCE_URL"], values["INFERENCE_MODEL_ID"]) == (nobody, "all-minilm-l6-v2")
    assert values["INFERENCE_KEY"] not in result.output
    assert "senryu config INFERENCE_KEY --app shop" in result.stderr
    with Store.open(paths.database) as store:
        made = next(found for found in store.resources() if found.served_names)
        assert (made.served_names, made.model_id) == (("b/c",), "all-minilm-l6-v2")
        assert [key.resource_id for key in store.keys()] == [made.id]
    assert f"Answers To:        all-minilm-l6-v2, {made.name}, b/c\n" in result.stdout


def test_the_first_resource_of_all_can_be_created(paths: Paths) -> None:
    made = json.loads(run("models", "create", "all-minilm-l6-v2", "--as", "EMBEDDING", "--json").stdout)
    assert made["attachments"] == [{"app": "default", "alias": "EMBEDDING"}]
    assert config_vars.read(paths.config_vars, "default")["EMBEDDING_URL"] == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--as", "EMBEDDING"], "has a resource EMBEDDING already"),
        (["--as", "lower"], "alias 'lower' is not allowed"),
        (["-a", "Shop"], "app 'Shop' is not allowed"),
        (["--name", "mine"], "there is a resource 'mine' already"),
        (["--served-name", "mine"], "there is a resource 'mine' already"),
        (["--served-name", "a b"], "--served-name: ('a b',) is not allowed"),
    ],
)
def test_what_cannot_be_created_leaves_nothing_behind(
    paths: Paths, nobody: str, argv: list[str], says: str
) -> None:
    provision(paths, nobody)
    with Store.open(paths.database) as store:
        store.create_resource("m", name="mine")
        before = store.resources(), store.attachments(), store.keys()
    variables = config_vars.read(paths.config_vars, "default")
    assert says in refused("models", "create", "all-minilm-l6-v2", *argv)
    with Store.open(paths.database) as store:
        assert (store.resources(), store.attachments(), store.keys()) == before
    assert config_vars.read(paths.config_vars, "default") == variables


def test_a_listing_of_nothing_says_what_to_run_and_makes_no_database(home: Path) -> None:
    result = run("models", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "`senryu serve`" in result.stderr
    assert json.loads(shown("models", "list", "--json")) == []
    assert not home.exists()


def test_the_models_that_can_be_served_are_listed(home: Path) -> None:
    text = shown("models", "list", "--available")
    entries = json.loads(shown("models", "list", "--available", "--json"))
    assert [entry["id"] for entry in entries] == [entry.id for entry in catalog()]
    assert {entry["pulled"] for entry in entries} == {False}
    for entry in catalog():
        (row,) = [line for line in text.splitlines() if line.startswith(f"{entry.id} ")]
        for cell in (str(entry.dimensions), str(entry.max_tokens), entry.licence or "unknown", " no "):
            assert cell in row


# models info

INFO = {
    "model_id": "all-minilm-l6-v2",
    "ready": "Yes",
    "avg_performance": "3.1 ms",
    "created": "2026-01-01T00:00:00Z",
    "fingerprint": "f00d",
    "precision": "bf16",
    "dimensions": 384,
    "max_tokens": 256,
}


def pairs(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def test_info_shows_what_the_running_server_says(paths: Paths, stand: StandServer) -> None:
    made = provision(paths, stand.url)
    stand.put(f"/models/{made.id}", INFO)
    text = shown("models", "info", "EMBEDDING")
    assert text.splitlines()[0] == "=== all-minilm-l6-v2"
    assert {name: value.strip() for name, value in pairs(text).items()} == {
        "Base Model ID": "all-minilm-l6-v2",
        "Model Alias": "EMBEDDING",
        "Model Resource ID": made.id,
        "Ready": "Yes",
        "Avg Performance": "3.1 ms",
        "Fingerprint": "f00d",
        "Precision": "bf16",
        "Dimensions": "384",
        "Max Tokens": "256",
    }
    ((method, _, headers, _),) = stand.asked
    assert (method, headers["Authorization"]) == ("GET", f"Bearer {KEY}")


def test_info_as_json_is_the_servers_answer_with_alias_and_id(paths: Paths, stand: StandServer) -> None:
    made = provision(paths, stand.url)
    stand.put(f"/models/{made.id}", INFO)
    answer = json.loads(shown("models", "info", made.name, "--json"))
    assert answer == {**INFO, "model_alias": "EMBEDDING", "model_resource_id": made.id, "name": made.name}


def test_info_finds_a_resource_by_alias_id_and_name(paths: Paths, stand: StandServer) -> None:
    one = provision(paths, stand.url)
    two = provision(paths, stand.url, app="shop")
    for made in (one, two):
        stand.put(f"/models/{made.id}", INFO)
    for argv, made in (
        (["EMBEDDING"], one),
        (["EMBEDDING", "-a", "default"], one),
        (["EMBEDDING", "-a", "shop"], two),
        ([one.id], one),
        ([two.id], two),
        ([two.name], two),
        ([one.name, "-a", "shop"], one),
    ):
        answer = json.loads(shown("models", "info", *argv, "--json"))
        assert answer["model_resource_id"] == made.id


def test_a_resource_of_several_apps_is_asked_about_with_the_apps_own_key(
    paths: Paths, stand: StandServer
) -> None:
    made = provision(paths, stand.url)
    with Store.open(paths.database) as store:
        store.attach(made.id, app="shop", alias="ZETA")
        store.attach(made.id, app="shop", alias="ANSWERS")
    values = {"ZETA_URL": stand.url, "ZETA_KEY": "inf-z", "ANSWERS_URL": stand.url, "ANSWERS_KEY": "inf-a"}
    config_vars.update(paths.config_vars, "shop", values)
    stand.put(f"/models/{made.id}", INFO)
    for argv, alias, key in (
        ([made.name], "EMBEDDING", KEY),
        ([made.name, "-a", "shop"], "ANSWERS", "inf-a"),
        (["ZETA", "-a", "shop"], "ZETA", "inf-z"),
    ):
        assert json.loads(shown("models", "info", *argv, "--json"))["model_alias"] == alias
        assert stand.asked[-1][2]["Authorization"] == f"Bearer {key}"


def test_info_without_a_resource_shows_all_of_the_app(paths: Paths, stand: StandServer) -> None:
    made = [provision(paths, stand.url, alias=alias) for alias in ("ANSWERS", "EMBEDDING")]
    other = provision(paths, stand.url, app="shop")
    for resource in (*made, other):
        stand.put(f"/models/{resource.id}", INFO)
    text = shown("models", "info")
    assert text.count("=== all-minilm-l6-v2") == 2
    assert all(resource.id in text for resource in made)
    answers = json.loads(shown("models", "info", "--json"))
    assert [answer["model_alias"] for answer in answers] == ["ANSWERS", "EMBEDDING"]


def test_info_without_a_server_shows_what_the_database_knows(paths: Paths, nobody: str) -> None:
    made = provision(paths, nobody)
    result = run("models", "info", "EMBEDDING")
    assert result.exit_code == 0
    assert f"the server at {nobody} does not answer (Connection refused)" in result.stderr
    found = {name: value.strip() for name, value in pairs(result.stdout).items()}
    assert found["Ready"] == "No"
    assert found["Model Resource ID"] == made.id
    assert found["Base Model ID"] == "all-minilm-l6-v2"


def test_info_of_a_resource_without_an_attachment_shows_what_the_database_knows(paths: Paths) -> None:
    with Store.open(paths.database) as store:
        made = store.create_resource("m", name="bare")
    result = run("models", "info", "bare")
    assert result.exit_code == 0
    assert "attached to no app" in result.stderr
    assert made.id in result.stdout


def test_what_is_not_there_is_named_with_what_is(paths: Paths, nobody: str) -> None:
    assert "`senryu serve`" in refused("models", "info")
    assert "`senryu serve`" in refused("models", "info", "EMBEDDING")
    made = provision(paths, nobody)
    message = refused("models", "info", "EMBEDING")
    assert "'EMBEDING' in app 'default'" in message
    assert f"there are: EMBEDDING, {made.name}" in message
    assert "apps that have: default" in refused("models", "info", "-a", "shop")
    assert "'EMBEDDING' in app 'shop'" in refused("models", "info", "EMBEDDING", "-a", "shop")


# models call

VECTOR = b"[-0.034478,0.03102,6.7e-7,1.0,-0.0]"
ANSWER = (
    b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":' + VECTOR + b"}],"
    b'"model":"all-minilm-l6-v2","usage":{"prompt_tokens":4,"total_tokens":4}}'
)


@dataclass
class Called:
    """A provisioned resource whose server answers with ANSWER."""

    stand: StandServer
    resource: Resource
    argv: list[str] = field(default_factory=lambda: ["models", "call", "EMBEDDING"])

    @property
    def body(self) -> Any:
        return self.stand.asked[-1][3]


@pytest.fixture
def called(paths: Paths, stand: StandServer) -> Called:
    stand.put("/v1/embeddings", ANSWER)
    return Called(stand, provision(paths, stand.url))


@pytest.mark.parametrize("flag", ["-p", "--prompt", "--input"])
def test_call_prints_the_vector_in_the_servers_own_digits(called: Called, flag: str) -> None:
    assert shown(*called.argv, flag, "hello world") == VECTOR.decode().strip("[]") + "\n"
    ((method, path, headers, body),) = called.stand.asked
    assert (method, path) == ("POST", "/v1/embeddings")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert body == {"model": "all-minilm-l6-v2", "input": "hello world"}


def test_call_prints_the_whole_answer_as_json(called: Called) -> None:
    assert json.loads(shown(*called.argv, "-p", "x", "-j")) == json.loads(ANSWER)
    assert json.loads(shown(*called.argv, "-p", "x", "--json")) == json.loads(ANSWER)


def test_call_reads_standard_input_as_it_is(called: Called) -> None:
    shown(*called.argv, "-p", "-", stdin="zwei\nZeilen – ü\n".encode())
    assert called.body["input"] == "zwei\nZeilen – ü\n"


def test_call_refuses_standard_input_that_is_not_utf8(called: Called) -> None:
    result = run(*called.argv, "-p", "-", stdin=b"\xff")
    assert result.exit_code == 1
    assert result.stderr.startswith("senryu: standard input is not UTF-8")
    assert called.stand.asked == []


def test_call_sends_the_options_of_both_sources_and_its_own_model_and_text(
    called: Called, tmp_path: Path
) -> None:
    file = tmp_path / "options.json"
    file.write_text(
        '{"encoding_format": "raw", "embedding_type": "int8", "model": "other", "input": "other"}'
    )
    shown(*called.argv, "-p", "x", "--optfile", str(file), "--opts", '{"embedding_type": "float"}')
    assert called.body == {
        "model": "all-minilm-l6-v2",
        "input": "x",
        "encoding_format": "raw",
        "embedding_type": "float",
    }


def test_call_takes_several_texts_from_the_options(called: Called) -> None:
    data = [{"index": 0, "embedding": [1, -2]}, {"index": 1, "embedding": "AQI="}]
    called.stand.put("/v1/embeddings", {"data": data})
    assert shown(*called.argv, "--opts", '{"input": ["a", "b"]}') == "1,-2\nAQI=\n"
    assert called.body["input"] == ["a", "b"]


def test_call_without_a_text_is_a_usage_error(called: Called) -> None:
    assert "--prompt" in refused(*called.argv, code=2)
    assert called.stand.asked == []


@pytest.mark.parametrize("flag", ["-o", "--output"])
def test_call_writes_to_a_file(called: Called, tmp_path: Path, flag: str) -> None:
    file = tmp_path / "vector"
    assert shown(*called.argv, "-p", "x", flag, str(file)) == ""
    assert file.read_bytes() == VECTOR.strip(b"[]") + b"\n"
    assert shown(*called.argv, "-p", "x", "--json", flag, str(file)) == ""
    assert json.loads(file.read_bytes()) == json.loads(ANSWER)


@pytest.mark.parametrize(
    ("opts", "why"), [("{", "--opts is not JSON"), ("[]", "--opts is not a JSON object")]
)
def test_call_refuses_options_that_are_no_object(called: Called, tmp_path: Path, opts: str, why: str) -> None:
    assert why in refused(*called.argv, "-p", "x", "--opts", opts)
    file = tmp_path / "options.json"
    file.write_text(opts)
    assert why.replace("--opts", str(file)) in refused(*called.argv, "-p", "x", "--optfile", str(file))
    assert called.stand.asked == []


def test_call_names_a_file_that_it_cannot_use(called: Called, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "file")
    assert f"{missing} cannot be read" in refused(*called.argv, "-p", "x", "--optfile", missing)
    assert f"{missing} cannot be written" in refused(*called.argv, "-p", "x", "-o", missing)


def test_call_shows_an_error_of_the_server_with_its_status(called: Called) -> None:
    error = {"error": {"code": 400, "message": "input[0] is empty", "type": "invalid_request_error"}}
    called.stand.put("/v1/embeddings", error, status=400)
    assert refused(*called.argv, "-p", "") == f"senryu: {called.stand.url} answered 400: input[0] is empty\n"
    called.stand.put("/v1/embeddings", b"<html>", status=502)
    assert refused(*called.argv, "-p", "x") == f"senryu: {called.stand.url} answered 502: Bad Gateway\n"
    called.stand.put("/v1/embeddings", b"<html>")
    assert "is not JSON" in refused(*called.argv, "-p", "x")


def test_call_takes_its_key_to_no_other_host(called: Called) -> None:
    with StandServer() as other:
        called.stand.put("/v1/embeddings", b"", status=302, location=f"{other.url}/stolen")
        assert "answered 302" in refused(*called.argv, "-p", "x")
        called.stand.put(f"/models/{called.resource.id}", b"", status=302, location=f"{other.url}/stolen")
        assert "answered 302" in refused("models", "info", "EMBEDDING")
        other.socket.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.socket.accept()


def test_info_follows_a_redirect_on_the_same_host(called: Called) -> None:
    called.stand.put(f"/models/{called.resource.id}", b"", status=307, location="/elsewhere")
    called.stand.put("/elsewhere", INFO)
    assert json.loads(shown("models", "info", "EMBEDDING", "--json"))["fingerprint"] == "f00d"


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_loopback_is_reached_without_a_proxy(
    called: Called, nobody: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, nobody)
    assert shown(*called.argv, "-p", "x") == VECTOR.decode().strip("[]") + "\n"


def test_another_host_is_reached_through_the_proxy(
    called: Called, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_vars.update(paths.config_vars, "default", {"EMBEDDING_URL": "http://embed.example.com"})
    monkeypatch.setenv("http_proxy", called.stand.url)
    monkeypatch.setenv("no_proxy", "")
    called.stand.put("http://embed.example.com/v1/embeddings", ANSWER)
    assert shown(*called.argv, "-p", "x") == VECTOR.decode().strip("[]") + "\n"


def test_call_without_a_server_says_what_to_run(paths: Paths, nobody: str) -> None:
    provision(paths, nobody)
    message = refused("models", "call", "EMBEDDING", "-p", "x")
    assert f"the server at {nobody} does not answer (Connection refused)" in message
    assert "`senryu serve`" in message


def test_call_before_the_first_start_of_the_server_says_what_to_run(paths: Paths) -> None:
    with Store.open(paths.database) as store:
        store.attach(store.create_resource("m").id, app="default", alias="EMBEDDING")
    assert "no config var 'EMBEDDING_URL'; `senryu serve`" in refused(
        "models", "call", "EMBEDDING", "-p", "x"
    )


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8080", ""])
def test_an_address_that_is_not_http_is_refused_by_name(paths: Paths, url: str) -> None:
    provision(paths, url)
    message = refused("models", "call", "EMBEDDING", "-p", "x")
    assert f"config var EMBEDDING_URL is {url!r}" in message


def test_what_the_commands_leave_behind_is_private(called: Called, paths: Paths) -> None:
    shown(*called.argv, "-p", "x")
    shown("models", "list")
    assert {stat.S_IMODE(file.stat().st_mode) for file in paths.data.iterdir()} == {0o600}
