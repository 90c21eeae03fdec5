"""A model folder, read and checked: the files of transformers and of sentence-transformers, 2 to 6.

Knows which of them decide a vector, and in which order the reference looks for a value. A model that would
not be served as its reference computes it is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from senryu.errors import ModelError
from senryu.models.entries import CatalogEntry, stays_inside
from senryu.models.spec import ModelSpec, Pooling
from senryu.types import Task

WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SERVED_POOLING = (Pooling.MEAN, Pooling.CLS)

# One boolean a mode, up to sentence-transformers 5.3; later `pooling_mode` names it.
POOLING_FLAGS = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
}

# The first name that a model has is its prompt for the task. Includes the names that `encode_query` and
# `encode_document` of sentence-transformers look for, and those of widespread models.
PROMPT_NAMES = {
    Task.SEARCH_QUERY: ("search_query", "query", "s2p_query", "web_search_query"),
    Task.SEARCH_DOCUMENT: ("search_document", "document", "passage", "corpus", "text"),
    Task.CLASSIFICATION: ("classification",),
    Task.CLUSTERING: ("clustering",),
}

# sentence-transformers reads the first of these that exists.
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

SERVED_MODULES = ("Transformer", "Pooling", "Normalize")

# Keys that change what the reference computes, with the value under which it computes what is served here.
SERVED_CONFIG = {"auto_map": None}  # a model with code of its own, which is never run
SERVED_TRANSFORMER: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "processing_kwargs": {},
    "tokenizer_args": {},
    "processor_kwargs": {},
    "config_args": {},
    "config_kwargs": {},
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
}
SERVED_MODEL = {"model_type": "SentenceTransformer", "truncate_dim": None}
SERVED_NORMALIZE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


def load_spec(folder: Path, entry: CatalogEntry | None = None) -> ModelSpec:
    """Read what a model folder states, with the catalog's word on it where there is one.

    Raises ModelError naming the file and what is wrong, also where the model's reference implementation would
    compute something that is not served.
    """
    _check_folder(folder)
    config = _Json.need(folder / "config.json")
    config.check(SERVED_CONFIG)
    # NOTE: sentence-transformers reads none of its own files in a folder without modules.json.
    pooling_name = _check_modules(folder)
    own = _transformer_config(folder) if pooling_name else _Json(folder / TRANSFORMER_CONFIGS[0], {})
    own.check(SERVED_TRANSFORMER)
    dimensions = config.need_integer("hidden_size")
    prompts = _read_prompts(folder) if pooling_name else {}
    names = entry.names if entry else (folder.resolve().name,)
    return ModelSpec(
        id=names[0],
        names=names,
        folder=folder,
        weights=f"{entry.hf_id}@{entry.revision}" if entry else names[0],
        files=_deciding_files(folder, pooling_name, own.path.name),
        architecture=config.need_string("model_type"),
        config=config.content,
        pooling=_read_pooling(folder / pooling_name, dimensions, prompts) if pooling_name else Pooling.MEAN,
        max_seq_length=_max_seq_length(folder, config, own),
        dimensions=dimensions,
        matryoshka=_matryoshka(config, entry, dimensions),
        prompts=prompts,
        lowercase=own.content.get("do_lower_case") is True,
        description=entry.description if entry else "",
        languages=entry.languages if entry else (),
        licence=entry.licence if entry else "",
    )


@dataclass(frozen=True, slots=True)
class _Json:
    """A JSON object in a file, which every complaint names."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Json:
        """Read a file that may be missing, which is the same as an empty object."""
        content = _read(path)
        if not isinstance(content, dict | None):
            raise ModelError(f"{path}: holds a {type(content).__name__}, not an object.")
        return cls(path, content or {})

    @classmethod
    def need(cls, path: Path) -> _Json:
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


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}.") from None


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder}: there is no such folder.")
    if (adapter := folder / "adapter_config.json").exists():
        raise ModelError(f"{adapter}: an adapter is not served; merge it into its model first.")
    if not (tokenizer := folder / "tokenizer.json").is_file():
        raise ModelError(f"{tokenizer}: is missing; vocabularies in other formats are not read.")
    if (weights := folder / WEIGHTS).is_file():
        return
    if (index := folder / f"{WEIGHTS}.index.json").exists():
        raise ModelError(f"{index}: weights in several files are not served yet.")
    if pickles := sorted(path for path in folder.iterdir() if path.suffix in PICKLES):
        raise ModelError(f"{pickles[0]}: a pickle can run code and is never opened; convert it to {WEIGHTS}.")
    raise ModelError(f"{weights}: is missing.")


def _check_modules(folder: Path) -> str | None:
    """Return the path of the Pooling module's config.json; None where there is no modules.json."""
    file = folder / "modules.json"
    modules = _read(file)
    if modules is None:
        return None
    paths = {}
    for position, (type_name, path) in enumerate(_module_list(file, modules)):
        kind = _module_kind(type_name)
        if kind not in SERVED_MODULES or SERVED_MODULES.index(kind) != position:
            raise ModelError(
                f"{file}: module {position} is {type_name}; served are {', '.join(SERVED_MODULES)} "
                "of sentence-transformers, in this order."
            )
        paths[kind] = path
    if "Pooling" not in paths:
        raise ModelError(f"{file}: has no Pooling module.")
    if paths["Transformer"]:
        raise ModelError(f"{file}: the Transformer is in {paths['Transformer']!r}; only '' is served.")
    if normalize := paths.get("Normalize"):
        _Json.read(folder / normalize / "config.json").check(SERVED_NORMALIZE)
    return (PurePosixPath(paths["Pooling"]) / "config.json").as_posix()


def _module_list(file: Path, modules: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(modules, list):
        raise ModelError(f"{file}: holds a {type(modules).__name__}, not a list of modules.")
    for position, module in enumerate(modules):
        match module:
            case {"type": str(type_name), "path": str(path)}:
                if not stays_inside(path):
                    raise ModelError(f"{file}: module {position} has the path {path!r}, outside the folder.")
                yield type_name, path
            case _:
                raise ModelError(f"{file}: module {position} needs a type and a path, both strings.")


def _module_kind(type_name: str) -> str:
    # sentence_transformers.models.Pooling; from 5.4 on sentence_transformers.….modules.pooling.Pooling
    package, _, rest = type_name.partition(".")
    return rest.rpartition(".")[2] if package == "sentence_transformers" else type_name


def _transformer_config(folder: Path) -> _Json:
    paths = [folder / name for name in TRANSFORMER_CONFIGS]
    return _Json.read(next((path for path in paths if path.is_file()), paths[0]))


def _read_pooling(path: Path, dimensions: int, prompts: Mapping[Task, str]) -> Pooling:
    file = _Json.need(path)
    modes = _pooling_modes(file)
    if len(modes) != 1 or modes[0] not in SERVED_POOLING:
        served = " and ".join(SERVED_POOLING)
        raise ModelError(f"{path}: the pooling is {' + '.join(modes)}; served are {served}, one at a time.")
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if file.integer(key) not in (None, dimensions):
            raise file.error(key, f"config.json's hidden_size is {dimensions}")
    if prompts and file.content.get("include_prompt") is False:
        raise file.error("include_prompt", "pooling without the prompt's tokens is not served")
    return modes[0]


def _pooling_modes(file: _Json) -> Sequence[Pooling]:
    named = file.content.get("pooling_mode")
    if named is None:
        return [mode for flag, mode in POOLING_FLAGS.items() if file.content.get(flag)] or [Pooling.MEAN]
    try:
        return [Pooling(mode) for mode in (named if isinstance(named, list) and named else [named])]
    except ValueError:
        raise file.error("pooling_mode", f"known are {', '.join(Pooling)}") from None


def _read_prompts(folder: Path) -> dict[Task, str]:
    file = _Json.read(folder / "config_sentence_transformers.json")
    file.check(SERVED_MODEL)
    given = file.content.get("prompts") or {}
    if not isinstance(given, dict) or not all(isinstance(text, str | None) for text in given.values()):
        raise file.error("prompts", "it must map names to strings")
    default = file.content.get("default_prompt_name")
    # NOTE: sentence-transformers gives every model the prompts query and document, empty by default.
    if default not in (None, "query", "document", *given):
        raise file.error("default_prompt_name", f"the prompts are {', '.join(given) or 'none'}")
    prompts = {}
    for task, names in PROMPT_NAMES.items():
        name = next((name for name in names if given.get(name) is not None), default)
        if text := given.get(name):
            prompts[task] = text
    return prompts


def _max_seq_length(folder: Path, config: _Json, own: _Json) -> int:
    """Follow sentence-transformers: its own setting, else the tokenizer's; never beyond the positions."""
    length = own.integer("max_seq_length")
    if length is None:
        # Where the tokenizer has no limit, transformers writes 1e30.
        length = _Json.read(folder / "tokenizer_config.json").integer("model_max_length")
    positions = config.integer("max_position_embeddings")
    known = [limit for limit in (length, positions) if limit is not None]
    if not known:
        raise ModelError(f"{config.path}: max_position_embeddings is missing, and nothing else limits texts.")
    return min(known)


def _matryoshka(config: _Json, entry: CatalogEntry | None, dimensions: int) -> tuple[int, ...]:
    # The key is vLLM's: docs.vllm.ai, "Matryoshka Embeddings".
    declared = config.content.get("matryoshka_dimensions")
    if declared is None:
        return entry.matryoshka if entry else ()
    if not isinstance(declared, list) or not all(type(n) is int and 1 <= n <= dimensions for n in declared):
        raise config.error("matryoshka_dimensions", f"it must list whole numbers from 1 to {dimensions}")
    return tuple(sorted(set(declared) - {dimensions}))


def _deciding_files(folder: Path, pooling_name: str | None, own_name: str) -> tuple[str, ...]:
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]
    if pooling_name:
        names += ["modules.json", pooling_name, own_name, "config_sentence_transformers.json"]
    return tuple(name for name in names if (folder / name).is_file())
