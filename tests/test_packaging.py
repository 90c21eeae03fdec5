"""What leaves the repository: the wheel, with and without kernels, the source distribution and the pinned requirements.

The built files are read and installed without a network; the pins are read as text. On a machine that can build the
kernels every wheel here is the platform's, but for the one that is built where no compiler is found.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compiler import COMPILER, needs_compiler, needs_platform

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "senryu"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
REQUIREMENT_FILES = ("serve", "dev", "clients", "kernels")
KERNELS = "senryu/engine/kernels"
LIBRARY = f"{KERNELS}/senryu_kernels.so"


def build(source: Path, folder: Path, path: str, *options: str) -> str:
    """Build what leaves `source` into `folder`, and return all that is said."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", folder, source]
    env = {name: value for name, value in os.environ.items() if name != "CC"} | {"PATH": path}
    return subprocess.run(
        command, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, os.environ["PATH"])
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("senryu-*.whl")
    return found


@pytest.fixture(scope="module")
def built_without_compiler(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel that the source distribution gives where no compiler is on PATH, and what was said."""
    folder = tmp_path_factory.mktemp("without")
    subprocess.run(["tar", "-xzf", next(dist.glob("senryu-*.tar.gz")), "-C", folder], check=True)
    (source,) = folder.iterdir()
    said = build(source, folder, str(folder), "--wheel")
    (found,) = folder.glob("senryu-*.whl")
    return found, said


def metadata(wheel: Path, file: str = "METADATA") -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(f".dist-info/{file}"))
        message = Parser().parsestr(archive.read(name).decode())
    return {key: message.get_all(key, []) for key in message}


def pins(name: str) -> dict[str, str]:
    """The pins of a requirement file by package: version and marker, then the hashes in order."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {canonicalize_name(line.split("==")[0]): line for line in lines}


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_of_the_package() -> set[str]:
    """The package's files but for what is compiled, what compiles it, and what was built in place."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = {f"senryu/{path.relative_to(PACKAGE).as_posix()}" for path in files if path.suffix != ".so"}
    return {name for name in names if not name.endswith((".c", ".h"))} - {f"{KERNELS}/build.py"}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = files_of(wheel)
    built = {LIBRARY} if COMPILER else set()
    assert {name for name in names if ".dist-info/" not in name} == files_of_the_package() | built
    assert "senryu/py.typed" in names
    assert any(name.endswith("/catalog.json") for name in names)
    assert any(name.startswith("senryu/pages/") and name.endswith(".html") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@needs_compiler
def test_a_wheel_with_kernels_says_for_which_platform_it_is(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    fields = metadata(wheel, "WHEEL")
    assert fields["Tag"] == ["py3-none-manylinux_2_17_x86_64"]
    assert fields["Root-Is-Purelib"] == ["false"]


@needs_platform
def test_without_a_compiler_the_wheel_is_for_every_platform(built_without_compiler: tuple[Path, str]) -> None:
    wheel, said = built_without_compiler
    assert wheel.name.endswith("-py3-none-any.whl")
    assert metadata(wheel, "WHEEL")["Root-Is-Purelib"] == ["true"]
    assert {name for name in files_of(wheel) if ".dist-info/" not in name} == files_of_the_package()
    assert "Senryu serves with OpenVINO" in said


def test_the_wheel_asks_for_what_pyproject_names(wheel: Path) -> None:
    fields = metadata(wheel)
    required = {str(Requirement(line)) for line in fields["Requires-Dist"]}
    extras = PROJECT["project"]["optional-dependencies"]
    assert required == {str(Requirement(line)) for line in PROJECT["project"]["dependencies"]} | {
        str(Requirement(f'{line} ; extra == "{extra}"')) for extra, lines in extras.items() for line in lines
    }
    assert fields["Requires-Python"] == [PROJECT["project"]["requires-python"]]
    assert fields["License-Expression"] == ["Apache-2.0"]


def test_the_source_distribution_holds_the_papers_and_all_sources(dist: Path) -> None:
    (found,) = dist.glob("senryu-*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "docs/api.md",
        "pyproject.toml",
        "hatch_build.py",
    } <= names
    kernels = {f"src/{KERNELS}/{path.name}" for path in (ROOT / "src" / KERNELS).glob("*.[ch]")}
    assert kernels | {f"src/{KERNELS}/build.py"} | {f"src/{name}" for name in files_of_the_package()} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_the_installed_wheel_runs_its_command_far_from_the_source(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)], check=True)
    # NOTE: the dependencies are borrowed by a .pth; nested ones are not read, so not the editable Senryu.
    site = Path(next(iter((tmp_path / "venv" / "lib").glob("python*/site-packages"))))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SENRYU_HOME": str(tmp_path / "home")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
        return done.stdout

    assert Path(run(python, "-c", "import senryu; print(senryu.__file__)").strip()).is_relative_to(site)
    assert metadata(wheel)["Version"][0] in run(python.with_name("senryu"), "version")
    if COMPILER:
        run(python, "-c", f"import ctypes; ctypes.CDLL({str(site / LIBRARY)!r})")


@pytest.mark.parametrize("name", REQUIREMENT_FILES)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    for line in pins(name).values():
        requirement, *hashes = re.split(r"\s+--hash=", line)
        assert re.fullmatch(r"[a-z0-9._-]+==[\w.+!]+( ; .+)?", requirement.strip()), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), requirement


def test_no_lock_file_names_an_address() -> None:
    locks = [*ROOT.glob("requirements/*.txt"), ROOT / "tests" / "clients" / "node" / "package-lock.json"]
    assert len(locks) == len(REQUIREMENT_FILES) + 1
    assert [path.name for path in locks if "://" in path.read_text("utf-8")] == []


@pytest.mark.parametrize("name", REQUIREMENT_FILES)
def test_a_requirement_file_holds_no_option_of_pip(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    assert not re.search(r"^\s*-", re.sub(r"^ +--hash=.*$", "", text, flags=re.M), re.M)


def test_the_development_pins_are_the_serving_pins_and_more() -> None:
    serve, dev = pins("serve"), pins("dev")
    assert serve.keys() < dev.keys()
    for name, line in serve.items():
        version, *hashes = line.split(" ; ")[0].split()[:1] + re.findall(r"sha256:\w+", line)
        assert [version, *hashes] == [dev[name].split()[0], *re.findall(r"sha256:\w+", dev[name])]


def test_the_pins_are_what_pyproject_allows() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    serve = pins("serve")
    for requirement in map(Requirement, wanted):
        pinned = serve[canonicalize_name(requirement.name)].split()[0].partition("==")[2]
        assert requirement.specifier.contains(pinned), requirement
