"""Senryu as a processor without AVX-512 runs it: `python -m baselines.older serve …` hides the newer's flags.

OpenVINO looks for itself and keeps its own instructions: so this says something of our own kernels alone.
"""

from __future__ import annotations

from senryu.cli import main
from senryu.engine import kernels, machine

NEWER = ("avx512", "avx_vnni", "amx")
FLAGS = frozenset(flag for flag in machine.processor_flags() if not flag.startswith(NEWER))


def hide() -> None:
    """Let Senryu see no more than FLAGS."""
    for module in (machine, kernels):
        setattr(module, "processor_flags", lambda: FLAGS)  # noqa: B010  (a function of a module)


if __name__ == "__main__":
    hide()
    main(prog_name="senryu")
