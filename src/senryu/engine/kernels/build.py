"""Compile the C sources beside this file to one library, with the compiler that this machine has.

It runs as a script before Senryu is installed: it knows the standard library and must not know Senryu. The library
carries the digest of what it is made from as its build id; one that fits is left alone, any other is replaced.
Without a compiler there is no library, and Senryu serves with OpenVINO. docs/decisions/0001-dependencies.md has why.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
LIBRARY = HERE / "senryu_kernels.so"
COMPILERS = ("cc", "gcc", "clang")
OUTPUT = ("-O3", "-g0", "-shared", "-fPIC", "-std=c11", "-fvisibility=hidden")
# NOTE: every compiler must give the same bits: nothing is fused or reordered that C does not say.
ARITHMETIC = ("-ffp-contract=off", "-fno-math-errno")
# NOTE: nothing of a libc, neither headers nor start files; memcpy, memset and memmove, which stay open, every one has.
ANY_LIBC = ("-ffreestanding", "-nostdlib", "-fno-stack-protector")
# NOTE: the functions say themselves what they need beyond this; some systems' compilers assume newer processors.
OLDEST_PROCESSOR = "-march=x86-64"
ZIG_TARGET = ("-target", "x86_64-linux-gnu.2.17")  # zig's words for the same
INSTEAD = (
    "Senryu serves with OpenVINO, slower by about a quarter; "
    "apt install gcc libc6-dev, or the like, and the same command builds them"
)
USED_BY = "avx2"  # the processor flag without which no function of the library is called


class Refused(Exception):
    """A compiler gave no library; the text says why, in one line."""


def main() -> int:
    """Build the library if it is missing or old; return 0 if it is there afterwards."""
    parser = argparse.ArgumentParser(description="Compile Senryu's kernels.")
    parser.add_argument("--cc", default="", help=f"the compiler's command, instead of {', '.join(COMPILERS)}")
    parser.add_argument(
        "--fetch", type=Path, metavar="TXT", help="pins of a compiler to fetch if none is here"
    )
    options = parser.parse_args()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return 1
    stamp = digest()
    if is_built_from(stamp):
        return 0
    try:
        return build(stamp, shlex.split(options.cc), options.fetch)
    except KeyboardInterrupt:
        return 130


def digest() -> str:
    """Return the sha256 of all that makes the library, in hexadecimal digits."""
    total = hashlib.sha256()
    for path in sorted([HERE / "build.py", *HERE.glob("*.[ch]")]):
        content = path.read_bytes()
        total.update(f"{path.name} {len(content)}\n".encode() + content)
    return total.hexdigest()


def is_built_from(stamp: str) -> bool:
    return LIBRARY.exists() and bytes.fromhex(stamp) in LIBRARY.read_bytes()


def build(stamp: str, cc: list[str], pins: Path | None) -> int:
    """Build with `cc`, or with what is here, or with what is fetched; return the exit status."""
    reasons = []
    for command in [cc] if cc else installed():
        try:
            say(f"building the kernels with {shlex.join(command)}")
            compile_with([*command, OLDEST_PROCESSOR], stamp)
            return 0
        except (OSError, Refused) as error:
            reasons.append(f"{shlex.join(command)}: {error}")
    reasons = reasons or ["no C compiler here"]
    if pins and not cc and USED_BY in processor_flags():
        try:
            with fetched(pins.resolve()) as command:
                compile_with(command, stamp)
            return 0
        except (OSError, Refused) as error:
            reasons.append(f"none fetched: {error}")
    LIBRARY.unlink(missing_ok=True)  # NOTE: an old one must not serve the new Python beside it
    if not pins or USED_BY in processor_flags():  # on another processor, the user of a clone misses nothing
        say(f"without its own kernels ({'; '.join(reasons)}) {INSTEAD}")
    return 1


def installed() -> list[list[str]]:
    """List the compilers on PATH, each program once."""
    paths = {name: path for name in COMPILERS if (path := shutil.which(name))}
    programs = {Path(path).resolve(): name for name, path in reversed(paths.items())}
    return [[name] for name in reversed(programs.values())]


def compile_with(command: list[str], stamp: str) -> None:
    """Compile and load the library under a name of its own, then put it in place."""
    with TemporaryDirectory(prefix=".build-", dir=HERE) as folder:
        built = Path(folder) / LIBRARY.name
        sources = sorted(path.name for path in HERE.glob("*.c"))
        flags = [*OUTPUT, *ARITHMETIC, *ANY_LIBC, f"-Wl,--build-id=0x{stamp}"]
        run([*command, *flags, "-o", str(built), *sources], HERE)
        if bytes.fromhex(stamp) not in built.read_bytes():
            raise Refused("its linker leaves out the build id")
        ctypes.CDLL(
            str(built)
        )  # raises OSError for another machine's library, or a function that no libc has
        built.replace(LIBRARY)


@contextmanager
def fetched(pins: Path) -> Iterator[list[str]]:
    """Yield the command of a compiler that pip fetches for this once."""
    say("no C compiler works here; fetching one for the kernels (100 MB, deleted afterwards)")
    # NOTE: in the environment: unpacked it takes 440 MB, and /tmp is often memory.
    with TemporaryDirectory(prefix=".compiler-", dir=sys.prefix, ignore_cleanup_errors=True) as folder:
        inside = [
            "env",
            f"TMPDIR={folder}",
            *(f"ZIG_{name}_CACHE_DIR={folder}" for name in ("GLOBAL", "LOCAL")),
        ]
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
        pip += [
            "--retries",
            "1",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--target",
            f"{folder}/packages",
        ]
        run([*inside, *pip, "-r", str(pins)], Path(folder))
        yield [*inside, sys.executable, f"{folder}/packages/ziglang", "cc", *ZIG_TARGET]


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603  (no shell; the compiler is the user's own)
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Refused(next((line for line in said if "error" in line.lower()), said[-1]).strip())


def processor_flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


def say(text: str) -> None:
    sys.stderr.write(f"senryu: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
