"""The set-up behind `make serve` and `make test`: which Python, when pip runs, and what is said.

A copy of the Makefile and its scripts runs in a folder of its own, with a space in its name. Its Python is a
real one that makes real environments, but pip is a stub that writes down how it was called, and so is the script
that builds the kernels (test_kernels_build.py has the real one).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PIP = """
import os, pathlib, signal, sys

if sys.argv[1:] == ["--version"]:
    sys.exit()
with open("pip-calls", "a") as calls:
    print(" ".join(sys.argv[1:]), file=calls)
match os.environ.get("PIP_STUB"):
    case "fail":
        sys.exit("no matching distribution")
    case "interrupt":
        os.killpg(0, signal.SIGINT)
command = pathlib.Path(sys.prefix, "bin", "senryu")
command.write_text('#!/bin/sh\\necho "senryu $* on port $PORT"\\n. ./behaviour\\n')
command.chmod(0o755)
print("Collecting chatter")
"""
KERNELS = "src/senryu/engine/kernels"
BUILD = """
import os, sys

with open("kernel-builds", "a") as builds:
    print(" ".join(sys.argv[1:]), file=builds)
sys.exit("no compiler" if os.environ.get("CC") == "missing" else 0)
"""
# Takes the place of python3: makes environments without pip's 3 seconds, and can be of any version.
PYTHON = """#!/bin/sh
{before}
if [ "$1" = -c ]; then exec "{real}" -c "import sys; sys.version_info = ({version}, 'final', 0); $2"; fi
"{real}" -m venv --without-pip "$3"
site=$(echo "$3"/lib/python*/site-packages)
mkdir "$site/pip"
cp ../pip.py "$site/pip/__main__.py"
{after}
"""


class Checkout:
    """A folder with what `make` reads, and its own PATH of Pythons."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "a folder"
        self.bin = base / "bin"
        (self.folder / "requirements").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("Makefile", "pyproject.toml", "requirements/serve.txt", "requirements/dev.txt"):
            shutil.copy(ROOT / name, self.folder / name)
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        (self.folder / KERNELS).mkdir(parents=True)
        (self.folder / KERNELS / "build.py").write_text(BUILD)
        (self.folder / "behaviour").touch()
        (base / "pip.py").write_text(PIP)
        self.python("python3", "3, 13, 5")

    def python(self, name: str, version: str, before: str = "", after: str = "") -> Path:
        """Put a Python on PATH that runs `before` first and `after` once it has made an environment."""
        path = self.bin / name
        path.write_text(PYTHON.format(real=sys.executable, version=version, before=before, after=after))
        path.chmod(0o755)
        return path

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ARGS", "CC", "MAKE", "PYTHON"))
        }
        clean |= {"PATH": f"{self.bin}:/usr/bin:/bin", **env}
        return subprocess.Popen(
            ["make", *arguments],
            cwd=self.folder,
            env=clean,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # NOTE: a shell starts what it sends to the background with SIGINT ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def make(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return finish(self.start(*arguments, **env))

    def pip_calls(self) -> list[str]:
        """How pip was called since the last time this was asked."""
        return self.calls("pip-calls")

    def kernel_builds(self) -> list[str]:
        """How the kernels' script was called since the last time this was asked."""
        return self.calls("kernel-builds")

    def calls(self, name: str) -> list[str]:
        calls = self.folder / name
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_make_alone_lists_every_target(checkout: Checkout) -> None:
    listed = re.findall(r"^make (\S+) +\S", checkout.make().stdout, re.M)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert phony
    assert sorted(listed) == sorted(phony[1].split())


def test_serve_installs_hashed_wheels_and_hands_over(checkout: Checkout) -> None:
    done = checkout.make("serve", "ARGS=--host ::1", PORT="9000")
    assert done.stdout == "senryu serve --host ::1 on port 9000\n"
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["senryu", "senryu"]
    pinned, itself = checkout.pip_calls()
    assert "--require-hashes" in pinned
    assert "--only-binary :all:" in pinned
    assert pinned.endswith("-r requirements/serve.txt")
    assert "--no-build-isolation --no-deps -e ." in itself


def test_a_second_start_runs_no_pip_and_says_nothing(checkout: Checkout) -> None:
    checkout.make("serve")
    checkout.pip_calls()
    done = checkout.make("serve")
    assert (done.stdout, done.stderr) == ("senryu serve on port \n", "")
    assert checkout.pip_calls() == []


def test_the_test_environment_serves_too(checkout: Checkout) -> None:
    checkout.make("test")
    assert checkout.pip_calls()[0].endswith("-r requirements/dev.txt")
    checkout.make("serve")
    assert checkout.pip_calls() == []


@pytest.mark.parametrize("name", ["requirements/serve.txt", "pyproject.toml"])
def test_a_changed_file_is_installed_again(checkout: Checkout, name: str) -> None:
    checkout.make("serve")
    checkout.pip_calls()
    with (checkout.folder / name).open("a") as file:
        file.write("# changed\n")
    checkout.make("serve")
    assert len(checkout.pip_calls()) == 2


def test_a_moved_folder_is_installed_again(checkout: Checkout) -> None:
    checkout.make("serve")
    checkout.pip_calls()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    assert checkout.make("serve").returncode == 0
    assert len(checkout.pip_calls()) == 2


def test_an_interrupted_install_is_done_again(checkout: Checkout) -> None:
    done = checkout.make("serve", PIP_STUB="interrupt")
    assert done.returncode != 0
    assert "Interrupted" in done.stderr
    assert "pip failed" not in done.stderr
    assert len(checkout.pip_calls()) == 1
    assert checkout.make("serve").returncode == 0
    assert len(checkout.pip_calls()) == 2


def test_an_interrupted_upgrade_leaves_no_stamp_of_the_old_one(checkout: Checkout) -> None:
    checkout.make("serve")
    assert checkout.make("test", PIP_STUB="interrupt").returncode != 0
    checkout.pip_calls()
    checkout.make("serve")
    assert len(checkout.pip_calls()) == 2


def test_an_environment_that_was_not_finished_is_made_anew(checkout: Checkout) -> None:
    checkout.python("python3", "3, 13, 5", after="exit 1")
    assert checkout.make("serve").returncode != 0
    checkout.python("python3", "3, 13, 5")
    done = checkout.make("serve")
    assert done.returncode == 0
    assert "making .venv" in done.stderr


def test_a_failing_pip_is_quoted(checkout: Checkout) -> None:
    done = checkout.make("serve", PIP_STUB="fail")
    assert done.returncode != 0
    assert "no matching distribution\n" in done.stderr
    assert "senryu serve" not in done.stdout


def test_an_old_python_is_refused_in_one_line(checkout: Checkout) -> None:
    old = checkout.python("old python", "3, 10, 12")
    done = checkout.make("serve", f"PYTHON={old}")
    first, made = done.stderr.splitlines()
    assert first == (
        f"senryu: Senryu needs Python 3.11 or newer; {old} is 3.10.12. Set PYTHON=/path/to/python3.11."
    )
    assert made.startswith("make: ***")
    assert not (checkout.folder / ".venv").exists()


def test_a_newer_python_on_path_is_taken_when_python3_is_too_old(checkout: Checkout) -> None:
    checkout.python("python3", "3, 9, 2")
    checkout.python("python3.14", "3, 14, 0", before="exit 1")
    checkout.python("python3.12", "3, 12, 4")
    done = checkout.make("serve")
    assert done.returncode == 0
    assert "Python 3.12.4" in done.stderr


def test_a_python_without_venv_is_told_the_package(checkout: Checkout) -> None:
    checkout.python("python3", "3, 13, 5", before="case $2 in (*ensurepip*) exit 1;; esac")
    done = checkout.make("serve")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].endswith("apt install python3-venv")


@pytest.mark.parametrize("target", ["serve", "test"])
def test_the_kernels_are_looked_at_every_time_after_the_install(checkout: Checkout, target: str) -> None:
    for _ in range(2):
        checkout.make(target)
        assert checkout.kernel_builds() == ["--cc  --fetch requirements/kernels.txt"]
    checkout.make(target, CC="zig cc")
    assert checkout.kernel_builds() == ["--cc zig cc --fetch requirements/kernels.txt"]


def test_the_kernels_are_not_built_before_an_install_has_succeeded(checkout: Checkout) -> None:
    assert checkout.make("serve", PIP_STUB="fail").returncode != 0
    assert checkout.kernel_builds() == []


def test_kernels_that_cannot_be_built_do_not_stop_the_server(checkout: Checkout) -> None:
    done = checkout.make("serve", CC="missing")
    assert done.returncode == 0
    assert done.stderr.endswith("no compiler\n")
    assert done.stdout == "senryu serve on port \n"


def test_clean_removes_what_was_built_in_place(checkout: Checkout) -> None:
    kernels = checkout.folder / KERNELS
    (checkout.folder / "tests").mkdir()
    (checkout.folder / "bench").mkdir()
    (kernels / "senryu_kernels.so").touch()
    (kernels / ".build-interrupted").mkdir()
    assert checkout.make("clean").returncode == 0
    assert [path.name for path in kernels.iterdir()] == ["build.py"]


def test_the_servers_exit_status_is_not_hidden(checkout: Checkout) -> None:
    (checkout.folder / "behaviour").write_text("exit 3\n")
    assert checkout.make("serve").returncode == 2
    assert "Error 3" in checkout.make("serve").stderr


@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_a_clean_stop_is_quiet_and_reaches_the_server(checkout: Checkout, whole_group: bool) -> None:
    checkout.make("serve")
    (checkout.folder / "behaviour").write_text(
        "trap 'echo stopped; exit 0' INT TERM; touch up; while :; do sleep 0.05; done\n"
    )
    process = checkout.start("serve")
    try:
        wait_for(checkout.folder / "up")
    finally:
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        done = finish(process)
    assert done.stdout.endswith("stopped\n")
    assert done.stderr == ""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a command, and end it and all it started if it takes a minute."""
    with process:
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
