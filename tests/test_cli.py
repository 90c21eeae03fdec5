"""The command itself, `senryu version` and `senryu config`, as a person and a shell meet them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from command import KEY, commands, provision, python, refused, shown
from senryu import __version__, config_vars, models
from senryu.cli import SUBCOMMANDS, Lazy, LazyGroup, main
from senryu.config import Paths
from senryu.engine.kernels import LIBRARY as KERNELS
from senryu.errors import SettingError
from test_models import entry_of

DOCUMENTED_LINE = (
    "eval $(senryu config{app} --shell | grep '^EMBEDDING_' | sed 's/^/export /' | tee >(cat >&2))"
)

# The command itself


def test_every_subcommand_has_help_with_an_example() -> None:
    found = dict(commands(main))
    assert {"serve", "models call", "keys create", "usage", "doctor", "config"} <= found.keys()
    for name in ("", *found):
        text = shown(*name.split(), "--help")
        usage, *rest = text.splitlines()
        assert usage.startswith(f"Usage: senryu {name}".rstrip())
        assert [line for line in rest if line.startswith(f"    senryu {name}".rstrip())], f"{name} --help"


def test_every_command_that_prints_data_prints_json_if_asked() -> None:
    for name, command in commands(main):
        if not isinstance(command, click.Group) and name != "serve":
            assert "--json" in {spelling for parameter in command.params for spelling in parameter.opts}, name


@pytest.mark.parametrize("name", ["models", "keys"])
def test_the_help_of_a_group_imports_nothing_either(name: str) -> None:
    code = (
        f"import sys\nfrom senryu.cli import main\ntry: main(['{name}', '--help'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'sqlalchemy', 'rich', 'openvino', 'asyncio'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = python("-c", code)
    assert done.stderr == "set()\n"
    assert "Commands:\n  list " in done.stdout


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
            [sys.executable, "-m", "senryu", "models", "info"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # NOTE: what is started in the background of a script ignores it, and so would what is started here.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    assert lines.keys() == {"senryu", "kernels", "python", "openvino", "tokenizers"}
    assert lines["senryu"] == __version__
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))
    assert lines["kernels"] == ("built" if KERNELS.exists() else "not built")
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


# pull


def test_pull_says_as_json_what_is_here(
    paths: Paths, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(shown("pull", str(tiny_folder), "--json")) == {
        "model": tiny_folder.name,
        "folder": str(tiny_folder),
        "source": None,
        "fetched_bytes": 0,
    }
    there = paths.models / "tiny-pulled"
    shutil.copytree(tiny_folder, there)
    entry = entry_of(there)
    models.write_manifest(there, entry, "a test")
    monkeypatch.setattr("senryu.models.entries.catalog", lambda: (entry,))
    answer = json.loads(shown("pull", "tiny-pulled", "--json"))
    assert (answer["model"], answer["folder"], answer["source"]) == ("tiny-pulled", str(there), None)
    assert answer["files"] == {path: pin.sha256 for path, pin in entry.files.items()}
    assert (answer["revision"], answer["fetched_bytes"]) == ("0" * 40, 0)
