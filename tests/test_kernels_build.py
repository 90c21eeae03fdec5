"""How the kernels' library is made: by which compiler, when again, and what is said when there is none.

The real build.py runs as a script over small sources of these tests, with compilers that are real or refuse; at the
end over Senryu's own sources. What is fetched is a wheel of these tests, by the real pip, without a network.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compiler import COMPILER, needs_compiler, needs_platform

KERNELS = Path(__file__).parents[1] / "src" / "senryu" / "engine" / "kernels"
SOURCE = """
#include <stdint.h>
#include <immintrin.h>
#define EXPORT __attribute__((visibility("default")))
EXPORT int32_t answer(void) { return 42; }
"""
REFUSES = "#!/bin/sh\necho 'error: not today' >&2\nexit 1\n"
# Takes the place of zig in the wheel that is fetched: the machine's own compiler, without zig's words.
ZIG = """
import os, sys
cc, target, triple, *rest = sys.argv[1:]
assert (cc, target) == ("cc", "-target"), sys.argv
assert os.environ["ZIG_GLOBAL_CACHE_DIR"].startswith(sys.prefix)
os.environ["PATH"] = {path!r}
os.execv({compiler!r}, [{compiler!r}, *rest])
"""

pytestmark = needs_platform


class Kernels:
    """A folder with build.py and sources, a PATH of its own, and what is fetched into it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = base / "the kernels"
        self.bin = base / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        shutil.copy(KERNELS / "build.py", self.folder)
        (self.folder / "kernels.c").write_text(SOURCE)
        (self.bin / "env").symlink_to("/usr/bin/env")
        self.library = self.folder / "senryu_kernels.so"

    def build(self, *arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run build.py with `path`, or with no compiler on PATH but those that a test has put there."""
        command = [sys.executable, self.folder / "build.py", *arguments]
        env = os.environ | {
            "PATH": path or str(self.bin),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.base),
        }
        return subprocess.run(command, cwd=self.base, env=env, capture_output=True, text=True)

    def build_here(self) -> subprocess.CompletedProcess[str]:
        """Run build.py with this machine's compilers."""
        return self.build(path=os.environ["PATH"])

    def compiler(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def edit(self, before: str, after: str) -> None:
        """Change a constant of this folder's build.py."""
        script = self.folder / "build.py"
        assert before in script.read_text("utf-8")
        script.write_text(script.read_text("utf-8").replace(before, after))

    def pin_compiler(self, sha256: str | None = None) -> Path:
        """Make a wheel with a compiler, and return requirements that pin it, by another hash if one is given."""
        wheel = self.base / "ziglang-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("ziglang/__main__.py", ZIG.format(path=os.environ["PATH"], compiler=COMPILER))
            archive.writestr(
                "ziglang-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ziglang\nVersion: 1.0\n"
            )
            archive.writestr(
                "ziglang-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            archive.writestr("ziglang-1.0.dist-info/RECORD", "")
        digest = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
        pins = self.base / "kernels.txt"
        pins.write_text(f"ziglang==1.0 --hash=sha256:{digest}\n")
        return pins


@pytest.fixture
def kernels(tmp_path: Path) -> Kernels:
    return Kernels(tmp_path)


def dynamic_symbols(library: Path, defined: bool) -> set[str]:
    """Read the names that an ELF file of 64 bits has for others, or expects of them (System V ABI, chapter 4)."""
    data = library.read_bytes()
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + number * size) for number in range(count)]
    (symbols,) = (section for section in sections if section[1] == 11)  # SHT_DYNSYM
    names = sections[symbols[6]][4]
    found = set()
    for at in range(symbols[4] + 24, symbols[4] + symbols[5], 24):
        name, section = struct.unpack_from("<I2xH", data, at)
        if bool(section) == defined:
            found.add(data[names + name : data.index(b"\0", names + name)].decode())
    return found


def leftovers(kernels: Kernels) -> list[str]:
    return [path.name for path in (*kernels.folder.glob(".build-*"), *Path(sys.prefix).glob(".compiler-*"))]


@needs_compiler
def test_a_missing_library_is_built_and_runs(kernels: Kernels) -> None:
    done = kernels.build_here()
    assert done.returncode == 0
    assert done.stderr.startswith("senryu: building the kernels with ")
    assert ctypes.CDLL(str(kernels.library)).answer() == 42
    assert leftovers(kernels) == []


@needs_compiler
def test_a_library_of_the_same_sources_is_not_touched(kernels: Kernels) -> None:
    kernels.build_here()
    before = kernels.library.stat()
    (kernels.folder / "kernels.c").touch()
    done = kernels.build()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (kernels.library.stat().st_ino, kernels.library.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


@needs_compiler
@pytest.mark.parametrize("name", ["kernels.c", "another.h", "build.py"])
def test_a_library_of_other_sources_is_built_again(kernels: Kernels, name: str) -> None:
    kernels.build_here()
    before = kernels.library.stat().st_ino
    with (kernels.folder / name).open("a") as file:
        file.write("\n")
    assert kernels.build_here().returncode == 0
    assert kernels.library.stat().st_ino != before


def test_without_a_compiler_one_line_says_what_is_served_instead(kernels: Kernels) -> None:
    done = kernels.build()
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "no C compiler here" in line
    assert "OpenVINO" in line
    assert "apt install gcc" in line


@needs_compiler
def test_an_old_library_that_cannot_be_built_again_is_removed(kernels: Kernels) -> None:
    kernels.build_here()
    (kernels.folder / "kernels.c").write_text("another\n")
    assert kernels.build().returncode == 1
    assert not kernels.library.exists()


@needs_compiler
def test_the_first_compiler_that_can_is_taken(kernels: Kernels) -> None:
    kernels.compiler("cc", REFUSES)
    kernels.compiler("gcc", f'#!/bin/sh\nPATH="{os.environ["PATH"]}" exec {COMPILER} "$@"\n')
    done = kernels.build()
    assert done.returncode == 0
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == ["cc", "gcc"]


@needs_compiler
def test_a_compiler_that_is_named_is_the_only_one_tried(kernels: Kernels) -> None:
    kernels.compiler("named", REFUSES)
    kernels.compiler("cc", f'#!/bin/sh\nPATH="{os.environ["PATH"]}" exec {COMPILER} "$@"\n')
    done = kernels.build("--cc", "named -O9", "--fetch", kernels.pin_compiler())
    assert done.returncode == 1
    assert "named -O9: error: not today" in done.stderr.splitlines()[-1]
    assert not kernels.library.exists()


@needs_compiler
def test_a_library_that_no_libc_completes_is_refused(kernels: Kernels) -> None:
    with (kernels.folder / "kernels.c").open("a") as file:
        file.write("extern int nowhere(void);\nEXPORT int here(void) { return nowhere(); }\n")
    done = kernels.build_here()
    assert done.returncode == 1
    assert "undefined symbol: nowhere" in done.stderr
    assert leftovers(kernels) == []


@needs_compiler
def test_a_compiler_is_fetched_where_none_works_and_deleted_afterwards(kernels: Kernels) -> None:
    kernels.edit('USED_BY = "avx2"', 'USED_BY = "fpu"')
    done = kernels.build("--fetch", kernels.pin_compiler())
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert ctypes.CDLL(str(kernels.library)).answer() == 42
    assert leftovers(kernels) == []


def test_a_compiler_of_another_hash_is_not_run(kernels: Kernels) -> None:
    kernels.edit('USED_BY = "avx2"', 'USED_BY = "fpu"')
    done = kernels.build("--fetch", kernels.pin_compiler("0" * 64))
    assert done.returncode == 1
    assert "none fetched" in done.stderr
    assert "OpenVINO" in done.stderr.splitlines()[-1]
    assert leftovers(kernels) == []


def test_a_processor_that_would_not_run_it_gets_no_compiler_and_no_complaint(kernels: Kernels) -> None:
    kernels.edit('USED_BY = "avx2"', 'USED_BY = "of no processor"')
    done = kernels.build("--fetch", kernels.base / "not read.txt")
    assert (done.returncode, done.stderr) == (1, "")


def test_another_platform_is_left_alone_without_a_word(kernels: Kernels) -> None:
    kernels.edit('("linux", "x86_64")', '("plan9", "vax")')
    done = kernels.build_here()
    assert (done.returncode, done.stderr) == (1, "")
    assert not kernels.library.exists()


@needs_compiler
def test_senryus_own_library_asks_for_nothing_that_a_libc_may_lack(kernels: Kernels) -> None:
    for path in KERNELS.glob("*.[ch]"):
        shutil.copy(path, kernels.folder)
    done = kernels.build_here()
    assert done.returncode == 0, done.stderr
    assert dynamic_symbols(kernels.library, defined=False) <= {"memcpy", "memset", "memmove"}
    assert any(name.startswith("senryu_") for name in dynamic_symbols(kernels.library, defined=True))


@needs_compiler
def test_a_symbol_that_is_missing_is_seen(tmp_path: Path) -> None:
    assert COMPILER
    source = "extern int nowhere(void); int here(void) { return nowhere(); }"
    command = [COMPILER, "-shared", "-fPIC", "-nostdlib", "-o", str(tmp_path / "x.so"), "-x", "c", "-"]
    subprocess.run(command, input=source.encode(), check=True)
    assert dynamic_symbols(tmp_path / "x.so", defined=False) == {"nowhere"}
