"""Which files of a repository on Hugging Face make a model: found, pinned to one commit, chosen by name.

Knows the hub's API and which files a served model can need. Never a pickle and never code: those are not in the
choice. Source: https://huggingface.co/docs/hub/api (GET /api/models/…/revision/…, blobs=true).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from senryu.engine import computes
from senryu.models import EXPORTS, CatalogEntry, FilePin, is_fetched
from senryu.pull.hub import MAIN, HubSource
from senryu.pull.staging import SourceRefused

MAX_LISTING_BYTES = 32 << 20
MAX_CONFIG_BYTES = 4 << 20

# Besides the weights, files of a model's own folder and of the modules' folders in it, as sentence-transformers writes.
SETTINGS = re.compile(
    r"(config|modules|config_sentence_transformers|sentence_[a-z-]+_config"
    r"|tokenizer|tokenizer_config|special_tokens_map|added_tokens|generation_config)\.json"
    r"|\d+_[A-Za-z]+/(config\.json|model\.safetensors)"
)
WEIGHTS = "model.safetensors"  # where a model has it, the index of several files is not read
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def listed(entry: CatalogEntry, source: HubSource) -> CatalogEntry:
    """Resolve the entry's revision to a commit and pin the files of it that the model needs.

    Raises SourceRefused if there is no such model, or none that can be served.
    """
    revision = quote(entry.revision or MAIN, "")
    answer = _object(
        source.read(f"api/models/{entry.hf_id}/revision/{revision}?blobs=true", MAX_LISTING_BYTES)
    )
    commit, pins = str(answer.get("sha")), dict(_pins(answer))
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise SourceRefused("has no commit for it: that is no answer of the hub's API")
    if entry.revision and re.fullmatch("[0-9a-f]{40}", entry.revision) and entry.revision != commit:
        raise SourceRefused(f"has another: asked for {entry.revision} it gives {commit}")
    for needed in ("config.json", "tokenizer.json"):
        if needed not in pins:
            raise SourceRefused(f"has no {needed} in it, without which a model cannot be served")
    config = _object(source.read(f"{entry.hf_id}/resolve/{commit}/config.json", MAX_CONFIG_BYTES))
    names = choose(pins, by_encoder=computes(config))
    return replace(entry, revision=commit, files={path: pins[path] for path in names})


def choose(paths: Mapping[str, Any], *, by_encoder: bool) -> list[str]:
    """Choose the files to fetch: the weights if an encoder of ours computes them, else an exported graph.

    Raises SourceRefused if there is nothing to choose.
    """
    weights = [WEIGHTS] if WEIGHTS in paths else _shards(paths)
    export = next((path for path in EXPORTS if path in paths and _has_weights(paths, path)), None)
    if (by_encoder or not export) and weights:
        chosen = weights
    elif export:
        chosen = _graph(paths, export)
    else:
        pickles = [path for path in paths if path.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        instead = f"; {pickles[0]} can run code and is never fetched" if pickles else ""
        raise SourceRefused(f"has neither {WEIGHTS} nor an exported graph ({', '.join(EXPORTS)}){instead}")
    return [
        *sorted(path for path in paths if SETTINGS.fullmatch(path) and path not in chosen),
        *sorted(chosen),
    ]


def _shards(paths: Mapping[str, Any]) -> list[str]:
    shards = [path for path in paths if SHARD.fullmatch(path)]
    return [INDEX, *shards] if shards and INDEX in paths else []


def _has_weights(paths: Mapping[str, Any], export: str) -> bool:
    return not export.endswith(".xml") or _beside(export) in paths


def _beside(xml: str) -> str:
    return xml.removesuffix(".xml") + ".bin"


def _graph(paths: Mapping[str, Any], export: str) -> list[str]:
    """Return a graph and the files beside it that may hold its weights."""
    if export.endswith(".xml"):
        return [export, _beside(export)]
    folder, _, name = export.rpartition("/")
    data = re.compile(rf"({re.escape(name)}|weights|model)[._]*data|Constant_\d+_attr__value")
    beside = (path for path in paths if path.rpartition("/")[0] == folder and path != export)
    return [export, *(path for path in beside if data.fullmatch(path.rpartition("/")[2]))]


def _pins(answer: Mapping[str, Any]) -> Iterator[tuple[str, FilePin]]:
    for file in answer.get("siblings") or ():
        match file:
            case {"rfilename": str(path), "lfs": {"sha256": str(sha256), "size": int(size)}}:
                pin = FilePin(sha256, size)
            case {"rfilename": str(path), "blobId": str(blob), "size": int(size)}:
                pin = FilePin("", size, blob)
            case _:
                continue
        if is_fetched(path) or path.endswith((".bin", ".pt", ".pth", ".ckpt")):
            yield path, pin


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(f"gives an answer that is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise SourceRefused("gives an answer that is not a JSON object")
    return value
