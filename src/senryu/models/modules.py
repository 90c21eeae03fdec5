"""modules.json: the chain that sentence-transformers runs, Transformer, Pooling, and what stands behind them.

Knows which chains can be served, and the files of each module. A module that is not known is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from senryu.errors import ModelError
from senryu.models.entries import stays_inside
from senryu.models.json_file import JsonFile, read_json
from senryu.models.spec import Dense, LayerNorm, Module, Normalize

FIRST = ("Transformer", "Pooling")
BEHIND = ("Dense", "LayerNorm", "Normalize")  # any of them, in any order

ACTIVATIONS: dict[str, Literal["identity", "gelu", "relu", "silu", "tanh"]] = {
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
}

# Keys that change what the reference computes, with the value under which it computes what is served here.
SERVED = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
SERVED_DENSE = SERVED | {"use_residual": False}


@dataclass(frozen=True, slots=True)
class ModuleFiles:
    """A module behind the pooling: its kind, and its files relative to the model's folder."""

    kind: str
    config: str
    weights: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A modules.json that can be served. `pooling`: the path of its config.json."""

    pooling: str
    rest: tuple[ModuleFiles, ...]


def read_chain(folder: Path) -> Chain | None:
    """Read modules.json; None where there is none. Raises ModelError for a chain that is not served."""
    file = folder / "modules.json"
    content = read_json(file)
    if content is None:
        return None
    found = list(_modules(file, content))
    for position, (type_name, _) in enumerate(found):
        kind = _kind(type_name)
        if kind not in (FIRST[position : position + 1] or BEHIND):
            raise ModelError(
                f"{file}: module {position} is {type_name}; served are {' and '.join(FIRST)} of "
                f"sentence-transformers, then any of {', '.join(BEHIND)}."
            )
    if len(found) < len(FIRST):
        raise ModelError(f"{file}: has no {FIRST[len(found)]} module.")
    if found[0][1]:
        raise ModelError(f"{file}: the Transformer is in {found[0][1]!r}; only '' is served.")
    return Chain(
        _inside(found[1][1], "config.json"),
        tuple(
            ModuleFiles(_kind(type_name), _inside(path, "config.json"), _inside(path, "model.safetensors"))
            for type_name, path in found[len(FIRST) :]
        ),
    )


def _modules(file: Path, content: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(content, list):
        raise ModelError(f"{file}: holds a {type(content).__name__}, not a list of modules.")
    for position, module in enumerate(content):
        match module:
            case {"type": str(type_name), "path": str(path)}:
                if not stays_inside(path):
                    raise ModelError(f"{file}: module {position} has the path {path!r}, outside the folder.")
                yield type_name, path
            case _:
                raise ModelError(f"{file}: module {position} needs a type and a path, both strings.")


def _kind(type_name: str) -> str:
    # sentence_transformers.models.Pooling; from 5.4 on sentence_transformers.….modules.pooling.Pooling
    package, _, rest = type_name.partition(".")
    return rest.rpartition(".")[2] if package == "sentence_transformers" else type_name


def _inside(path: str, name: str) -> str:
    return (PurePosixPath(path) / name).as_posix()


def read_modules(folder: Path, files: Sequence[ModuleFiles], width: int) -> tuple[Module, ...]:
    """Read the modules behind the pooling, whose vectors have `width` numbers.

    Raises ModelError for one that is not served as its reference computes it.
    """
    modules: list[Module] = []
    for each in files:
        modules.append(_read(folder, each, width))
        if isinstance(modules[-1], Dense):
            width = modules[-1].out_features
    while modules and isinstance(modules[-1], Normalize):  # every vector is normalised in the end
        modules.pop()
    return tuple(modules)


def _read(folder: Path, files: ModuleFiles, width: int) -> Module:
    if files.kind == "Normalize":
        JsonFile.read(folder / files.config).check(SERVED)
        return Normalize()
    config = JsonFile.need(folder / files.config)
    config.check(SERVED_DENSE)
    key = "in_features" if files.kind == "Dense" else "dimension"
    if config.need_integer(key) != width:
        raise config.error(key, f"the vectors before it have {width} numbers")
    module = _dense(config, files.weights) if files.kind == "Dense" else LayerNorm(files.weights)
    if not (folder / files.weights).is_file():
        raise ModelError(f"{folder / files.weights}: is missing; weights in other formats are not read.")
    return module


def _dense(config: JsonFile, weights: str) -> Dense:
    activation = config.content.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ACTIVATIONS:
        raise config.error("activation_function", f"served are {', '.join(ACTIVATIONS)}")
    return Dense(
        weights=weights,
        in_features=config.need_integer("in_features"),
        out_features=config.need_integer("out_features"),
        bias=config.content.get("bias") is not False,
        activation=ACTIVATIONS[activation],
    )
