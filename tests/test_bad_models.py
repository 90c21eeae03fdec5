"""Models that cannot be served: one line that names the file, at the start and in a server that runs, which goes on."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines import OURS
from senryu import models
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import CatalogEntry, FilePin
from server import Answer, Server, environment, program, senryu
from test_encoders import FAMILIES, golden
from test_models import change, dense
from tiny import make_from_shapes, make_model, random_weights, write_safetensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Damage = Callable[[Path], object]


def rewrite(**tensors: Any) -> Damage:
    """Other tensors beside those that there are, or in their place; None takes one out."""

    def damage(folder: Path) -> None:
        path = folder / WEIGHTS
        length = int.from_bytes(path.read_bytes()[:8], "little")
        names = json.loads(path.read_bytes()[8 : 8 + length]).keys() - {"__metadata__"}
        weights = Weights([path])
        merged = {name: np.array(weights[name]) for name in sorted(names)} | tensors
        path.unlink()
        write_safetensors(path, {name: tensor for name, tensor in merged.items() if tensor is not None})

    return damage


def cut_off(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) * 2 // 3])


def index_outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"pooler.dense.bias": f"../{WEIGHTS}"}}))


def narrow_dense(folder: Path) -> None:
    dense()(folder)
    write_safetensors(
        folder / "Dense" / WEIGHTS, random_weights({"linear.weight": [7, 32], "linear.bias": [8]})
    )


DENSE = "encoder.layer.0.intermediate.dense"
# Each with the file that is named, and what is said of it.
KINDS: dict[str, tuple[Damage, str, str]] = {
    "truncated": (cut_off, WEIGHTS, "cut off"),
    "missing tensor": (rewrite(**{f"{DENSE}.bias": None}), WEIGHTS, f"'{DENSE}.bias' is missing"),
    "extra tensor": (rewrite(**{"encoder.layer.9.x": np.zeros(3)}), WEIGHTS, "'encoder.layer.9.x'"),
    "wrong shapes": (
        rewrite(**{f"{DENSE}.weight": np.zeros((128, 31))}),
        WEIGHTS,
        "[128, 31], where [any, 32]",
    ),
    "too few positions": (
        rewrite(**{"embeddings.position_embeddings.weight": np.zeros((63, 32))}),
        WEIGHTS,
        "[63, 32], where [64, 32]",
    ),
    "a narrow module": (narrow_dense, f"Dense/{WEIGHTS}", "[7, 32], where [8, 32]"),
    "unknown architecture": (
        lambda f: change(f, "config.json", model_type="mamba"),
        "config.json",
        "'mamba'",
    ),
    "unknown variant": (lambda f: change(f, "config.json", hidden_act="mish"), "config.json", "'mish'"),
    "pickle only": (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "pytorch_model.bin", "pickle"),
    "path outside": (index_outside, INDEX, f"'../{WEIGHTS}' is not a .safetensors file in the folder"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json", "cannot be read"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_ends_with_one_line_that_names_the_file(tmp_path: Path, kind: str) -> None:
    damage, file, says = KINDS[kind]
    folder = make_model(tmp_path / "m")
    damage(folder)
    command = [*program(), "serve", "--port", "0", "--model", str(folder)]
    done = subprocess.run(
        command, env=environment(tmp_path / "home"), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"senryu: {folder / file}: ")
    assert says in done.stderr


def pull(folder: Path, entry: CatalogEntry) -> None:
    """Record a folder's files as those that were fetched."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    pins = {
        path: FilePin(models.sha256_of(folder / path), (folder / path).stat().st_size)
        for path in paths
        if models.is_fetched(path)
    }
    models.write_manifest(folder, replace(entry, files=pins, revision="0" * 40), "a test")


def ask(server: Server, model: str, key: str) -> Answer:
    """Ask with a key that was made just now."""
    deadline = time.monotonic() + 30
    while (answer := server.post({"model": model, "input": "the old pond"}, key=key)).status == 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def test_a_server_that_runs_goes_on_whatever_is_wrong_with_the_model_that_it_is_asked_for(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    entries = [entry for entry in models.catalog() if not entry.files][: len(KINDS)]
    for entry, (damage, _, _) in zip(entries, KINDS.values(), strict=True):
        folder = make_model(home / "models" / entry.folder_name)
        damage(folder)
        pull(folder, entry)
    with Server(home, make_model(tmp_path / "good")) as server:
        before = server.embed(["the old pond"], encoding_format="base64").floats()
        for number, entry in enumerate(entries):
            senryu(home, "models", "create", entry.id, "--as", f"BAD{number}")
            answer = ask(server, entry.id, senryu(home, "config", f"BAD{number}_KEY").strip())
            assert answer.status in (404, 503), answer.body
            assert entry.id in answer.json()["error"]["message"]
            after = server.embed(["the old pond"], encoding_format="base64").floats()
            assert after.tobytes() == before.tobytes()
        assert server.get("/readyz", key=None).status == 200
        log = server.log().splitlines()
    for entry, (kind, (_, file, says)) in zip(entries, KINDS.items(), strict=True):
        path = home / "models" / entry.folder_name / file
        lines = [line for line in log if f"{path}: " in line]
        assert lines, kind
        assert all(says in line for line in lines), kind


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_of_another_shape_is_refused_in_every_family(
    tmp_path: Path, family: str, chosen: str
) -> None:
    content = golden(family)
    spec = models.load_spec(make_from_shapes(tmp_path / "m", content["config"], content["shapes"]))
    whole = random_weights(content["shapes"])
    for name, shape in content["shapes"].items():
        if "pooler" in name or "token_type" in name or ".1." in name:
            continue
        half = [shape[0] // 2, *shape[1:]]
        for other in ([shape[0] - 1, *shape[1:]], half, [*shape[:-1], 1], [*shape, 1], [1, *shape], []):
            if "position_embeddings" in name and other[1:] == [24]:
                other = [159, 24]  # one less than texts may be long
            write_safetensors(spec.folder / WEIGHTS, whole | {name: np.zeros(other, np.float32)})
            with pytest.raises(
                ModelError, match=r"model\.safetensors: its shapes do not fit config\.json: [^\n]+$"
            ):
                engines.load(spec, chosen)
