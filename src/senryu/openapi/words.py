"""What the schemas are made of: the document's bounds, and functions that write common pieces of JSON Schema."""

from __future__ import annotations

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

MAX_INPUTS = 96
MAX_CHARS = 2048
OPENAI_MAX_INPUTS = 2048
OPENAI_MAX_TOKENS = 300_000


def text(description: str) -> Json:
    """Return a string's schema."""
    return {"type": "string", "description": description}


def number(description: str) -> Json:
    """Return that of a number that is not negative."""
    return {"type": "integer", "minimum": 0, "description": description}


def choice(values: list[str], default: str, description: str) -> Json:
    """Return that of an optional enumeration."""
    return {
        "type": ["string", "null"],
        "enum": [*values, None],
        "default": default,
        "description": description,
    }


def object_of(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    """Return that of an object; every property is required but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def list_of(schema: str) -> Json:
    """Return the schema of an array of a named one."""
    return {"type": "array", "items": ref("schemas", schema)}


def ref(kind: str, name: str) -> Json:
    """Point at a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def model_field(models: tuple[str, ...]) -> Json:
    """Return the schema of the field that names a model."""
    return {
        **text("Id or another name of the model that the key is for."),
        "minLength": 1,
        "examples": list(models),
    }
