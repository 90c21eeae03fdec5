"""Which senryu is run, and where the default model is; for the tests and for recall.py.

Knows the environment variables and the command line.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from server import senryu

ROOT = Path(__file__).parents[2]
DEFAULT_MODEL = "all-minilm-l6-v2"


def default_command() -> None:
    """Let SENRYU_COMMAND be the senryu of .venv, unless it names another one."""
    os.environ.setdefault("SENRYU_COMMAND", shlex.join([str(ROOT / ".venv/bin/python"), "-m", "senryu"]))


def pulled_models(home: Path) -> Path:
    """Return the folder of pulled models with the default model in it; `home` is an empty folder to work in."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    models = Path(os.environ.get("SENRYU_TEST_MODELS") or Path(data, "senryu", "models")).absolute()
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models, target_is_directory=True)
    senryu(home, "pull", DEFAULT_MODEL)
    return models
