"""A JSON file of a model folder, whose every complaint names the file, the key and what was given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senryu.errors import ModelError


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A JSON object in a file, which every complaint names."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> JsonFile:
        """Read a file that may be missing, which is the same as an empty object."""
        content = read_json(path)
        if not isinstance(content, dict | None):
            raise ModelError(f"{path}: holds a {type(content).__name__}, not an object.")
        return cls(path, content or {})

    @classmethod
    def need(cls, path: Path) -> JsonFile:
        if not path.is_file():
            raise ModelError(f"{path}: is missing.")
        return cls.read(path)

    def error(self, key: str, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {key} is {self.content.get(key)!r}; {problem}.")

    def integer(self, key: str) -> int | None:
        value = self.content.get(key)
        if value is None:
            return None
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if not whole or value < 1:
            raise self.error(key, "it must be a whole number from 1")
        return int(value)

    def need_integer(self, key: str) -> int:
        if (value := self.integer(key)) is None:
            raise ModelError(f"{self.path}: {key} is missing.")
        return value

    def need_string(self, key: str) -> str:
        value = self.content.get(key)
        if not isinstance(value, str):
            raise self.error(key, "it must be a string")
        return value

    def check(self, served: Mapping[str, Any]) -> None:
        for key, only in served.items():
            given = self.content.get(key)
            if isinstance(given, dict):
                given = {name: value for name, value in given.items() if name != "trust_remote_code"}
            if given not in (None, only):
                allowed = f"only {only!r} is" if only else "a model that sets it is not"
                raise self.error(key, f"{allowed} served")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}.") from None
