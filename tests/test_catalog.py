"""The catalog's entries, its aliases and prompts, and how any other model of Hugging Face is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from senryu import models
from senryu.cli import main
from senryu.cli.catalog import languages
from senryu.config import DEFAULT_MODEL
from senryu.errors import ModelError, SettingError
from senryu.models import CatalogEntry, hub_entry, parse_prompts, with_prompts
from senryu.types import Task
from test_models import entry_of
from tiny import FOUR_PROMPTS, make_model

ENTRIES = [pytest.param(entry, id=entry.id) for entry in models.catalog()]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_whole(entry: CatalogEntry) -> None:
    assert entry.id == entry.hf_id.split("/")[1].lower()
    assert entry.dimensions
    assert entry.max_tokens
    assert entry.languages
    assert entry.description.endswith(".")
    assert entry.megabytes
    assert list(entry.matryoshka) == sorted(set(entry.matryoshka))
    assert all(size < entry.dimensions for size in entry.matryoshka)
    assert set(entry.prompts) <= set(Task)
    assert hub_entry(entry.hf_id)


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_proven_is_pinned_to_every_byte(entry: CatalogEntry) -> None:
    assert bool(entry.files) == bool(entry.revision) == entry.proven
    assert all(len(pin.sha256) == 64 and pin.size for pin in entry.files.values())


def test_no_name_means_two_models() -> None:
    names = [name.casefold() for entry in models.catalog() for name in {n.casefold() for n in entry.names}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "dimensions"), [(DEFAULT_MODEL, 384), ("multilingual", 384), ("Multilingual-Large", 1024)]
)
def test_the_names_that_matter_most(name: str, dimensions: int) -> None:
    entry = models.find(name)
    assert entry
    assert entry.dimensions == dimensions
    assert entry.licence in ("Apache-2.0", "MIT")
    assert "en" in entry.languages
    assert name == DEFAULT_MODEL or len(entry.languages) > 50


@pytest.mark.parametrize(
    ("name", "hf_id", "revision", "folder"),
    [
        ("BAAI/bge-small-en", "BAAI/bge-small-en", None, "BAAI--bge-small-en"),
        ("a/B.c_d@v1.0", "a/B.c_d", "v1.0", "a--B.c_d@v1.0"),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3", "a--b@refs--pr--3"),
    ],
)
def test_a_name_of_hugging_face_is_read(name: str, hf_id: str, revision: str | None, folder: str) -> None:
    entry = hub_entry(name)
    assert entry
    assert (entry.hf_id, entry.revision, entry.folder_name) == (hf_id, revision, folder)
    assert entry.id == hf_id.split("/")[1].lower()


@pytest.mark.parametrize(
    ("name", "served_as"),
    [
        ("Xenova/bge-m3", "xenova--bge-m3"),
        ("someone/all-MiniLM-L6-v2", "someone--all-minilm-l6-v2"),
        ("someone/Multilingual", "someone--multilingual"),
        ("BAAI/bge-m3@branch", "baai--bge-m3@branch"),
    ],
)
def test_another_organisations_model_is_not_served_under_a_name_of_the_catalogs(
    name: str, served_as: str
) -> None:
    entry = models.entry_for(name)
    assert entry
    assert entry.id == served_as
    assert models.find(entry.id) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt-9",
        "/a/b",
        "./a/b",
        "a/b/c",
        "../b",
        "a/..",
        "a/b@",
        "a/b@../c",
        "a/b@-x",
        "a\\b",
        "a/b\n",
        "~/b",
    ],
)
def test_what_is_no_name_of_hugging_face(name: str) -> None:
    assert hub_entry(name) is None


def test_a_folder_comes_before_a_name_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "somebody" / "model")
    monkeypatch.chdir(tmp_path)
    assert models.entry_for("somebody/model") is None
    assert models.resolve("somebody/model", tmp_path / "none").id == "model"
    with pytest.raises(models.NotPulled, match="senryu pull somebody/other"):
        models.resolve("somebody/other", tmp_path / "none")


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: dict[str, str]) -> models.ModelSpec:
    """A model of the catalog whose card has a prompt for queries, with what its own files declare."""
    folder = make_model(tmp_path / "models" / "tiny", prompts=prompts)
    entry = replace(entry_of(folder), prompts={"search_query": "from the card: "})
    models.write_manifest(folder, entry, "a test")
    monkeypatch.setattr("senryu.models.entries.catalog", lambda: (entry,))
    return models.resolve("tiny", tmp_path / "models")


def test_a_cards_prompts_count_where_the_files_declare_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served(tmp_path, monkeypatch, {}).prompts == {Task.SEARCH_QUERY: "from the card: "}


def test_the_files_prompts_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(tmp_path, monkeypatch, FOUR_PROMPTS).prompts == {
        Task(name): prompt for name, prompt in FOUR_PROMPTS.items()
    }


def test_prompts_can_be_given(tmp_path: Path) -> None:
    spec = models.load_spec(make_model(tmp_path / "tiny", prompts=FOUR_PROMPTS))
    given = parse_prompts(["search_query=query: a = b: ", "clustering="])
    assert given == {Task.SEARCH_QUERY: "query: a = b: ", Task.CLUSTERING: ""}
    assert given == parse_prompts({"search_query": "query: a = b: ", "clustering": ""})
    merged = with_prompts(spec, given).prompts
    assert merged == {
        Task.SEARCH_QUERY: "query: a = b: ",
        Task.SEARCH_DOCUMENT: "search_document: ",
        Task.CLASSIFICATION: "classification: ",
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["query: "], "it takes NAME=TEXT"),
        (["query=query: "], "no input_type 'query'; there are search_document, search_query"),
        (["search_query=a", "search_query=b"], "search_query: is given twice"),
        ({"search_query": 3}, "3 is no text"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_by_name(given: list[str], says: str) -> None:
    with pytest.raises(SettingError, match=r"^prompt") as refused:
        parse_prompts(given)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "raw", [{"id": "a/b"}, {"id": ".."}, {"id": ""}, {"folder": "../b"}, {"folder": "a/b"}]
)
def test_an_entry_cannot_name_a_folder_elsewhere(raw: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="cannot be the name of a folder"):
        CatalogEntry(**{"id": "a", "hf_id": "a/a", "revision": None} | raw)


def test_what_is_not_known_is_said_to_be_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CatalogEntry("silent", "somebody/silent", None)
    monkeypatch.setattr("senryu.cli.catalog.catalog", lambda: (entry,))
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path))
    table = CliRunner().invoke(main, ["models", "list", "--available"])
    row = table.stdout.splitlines()[1].split()
    assert row == ["silent", *["unknown"] * 5, "no", "no"]
    (listed,) = json.loads(CliRunner().invoke(main, ["models", "list", "--available", "--json"]).stdout)
    assert (listed["licence"], listed["size_bytes"], listed["proven"]) == ("unknown", None, False)


def test_json_has_what_a_program_needs_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["models", "list", "--available", "--json"])
    by_id = {entry["id"]: entry for entry in json.loads(result.stdout)}
    assert by_id[DEFAULT_MODEL]["proven"] is True
    e5 = by_id["multilingual-e5-large"]
    assert e5["aliases"] == ["multilingual-large"]
    assert e5["prompts"]["search_query"] == "query: "
    assert (e5["pulled"], e5["proven"], e5["pinned"], e5["revision"]) == (False, False, False, None)
    assert by_id["embeddinggemma-300m"]["gated"] is True


@pytest.mark.parametrize(
    ("codes", "shown"),
    [(("en",), "en"), (("mul",), "many"), (tuple("abcde"), "5 languages"), ((), "unknown")],
)
def test_languages_are_named_or_counted(codes: tuple[str, ...], shown: str) -> None:
    assert languages(codes) == shown
