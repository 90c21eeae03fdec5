"""Prompts that are put in front of texts by what they are for: where the model's own files are silent, or on demand.

Knows the names that people give them by; which prompts a model's files declare is folder.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from senryu.errors import SettingError
from senryu.models.spec import ModelSpec
from senryu.types import Task


def parse_prompts(given: Iterable[str] | Mapping[str, str]) -> dict[Task, str]:
    """Read `search_query=query: ` and its like, as the command line gives them, or a table of a settings file.

    Raises SettingError naming the one that is wrong. An empty prompt takes away what the model's files declare.
    """
    pairs = given.items() if isinstance(given, Mapping) else (_split(one) for one in given)
    prompts: dict[Task, str] = {}
    for name, prompt in pairs:
        if name not in list(Task):
            raise SettingError(f"prompt: there is no input_type {name!r}; there are {', '.join(Task)}.")
        if not isinstance(prompt, str):
            raise SettingError(f"prompt {name}: {prompt!r} is no text.")
        if prompts.get(Task(name), prompt) != prompt:
            raise SettingError(f"prompt {name}: is given twice.")
        prompts[Task(name)] = prompt
    return prompts


def _split(given: str) -> tuple[str, str]:
    name, equals, prompt = given.partition("=")
    if not equals:
        raise SettingError(
            f'prompt: {given!r} is not allowed; it takes NAME=TEXT, such as "search_query=query: ".'
        )
    return name.strip(), prompt


def with_prompts(spec: ModelSpec, prompts: Mapping[Task, str]) -> ModelSpec:
    """Return the model with these prompts over its own; an empty one leaves texts of its kind as they are."""
    merged = {**spec.prompts, **prompts}
    return replace(spec, prompts={task: prompt for task, prompt in merged.items() if prompt})
