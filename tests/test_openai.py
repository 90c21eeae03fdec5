"""OpenAI's dialect: token ids, OpenAI's limits below /openai/v1, its error bodies, and answers of many rows."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from senryu import app
from senryu.dialects import heroku
from senryu.dialects.vectors import SLICE_ROWS
from senryu.exchange import Exchange
from senryu.types import EmbedRequest, EmbedResult, OutputType
from server import Answer, Server
from tiny import Reference, make_model, vocabulary

WIDE = "/openai/v1/embeddings"
IDS = len(vocabulary())


def ask(server: Server, given: Any, path: str = WIDE, **fields: Any) -> Answer:
    return server.post(
        {"model": server.model_id, "input": given, "encoding_format": "base64", **fields}, path
    )


def error(answer: Answer, status: int) -> dict[str, Any]:
    assert answer.status == status, answer.body
    found: dict[str, Any] = answer.json()["error"]
    return found


# ---- token ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_token_ids_are_cut_as_a_text_is(
    tiny_server: Server, tiny_reference: Reference, truncate: str
) -> None:
    text = " ".join("abcdefghijklmnopqrstuvwxyz" * 5)
    ids = tiny_reference.all_ids(text)[1:-1]
    by_ids, by_text = (ask(tiny_server, [given], truncate=truncate) for given in (ids, text))
    assert by_ids.embeddings() == by_text.embeddings()
    assert by_ids.headers["x-senryu-truncated"] == "1"
    assert by_ids.json()["usage"]["prompt_tokens"] == tiny_reference.max_seq_length


def test_token_ids_that_are_too_many_are_refused_as_a_text_is(
    tiny_server: Server, tiny_reference: Reference
) -> None:
    text = " ".join("a" * 100)
    ids = tiny_reference.all_ids(text)[1:-1]
    by_ids, by_text = (ask(tiny_server, ["a", text] if t else [[5], ids], truncate="NONE") for t in (0, 1))
    assert error(by_ids, 400) == error(by_text, 400)
    assert "input[1] has 106 tokens" in error(by_ids, 400)["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", WIDE])
@pytest.mark.parametrize(
    ("given", "place"),
    [([IDS], "input[0][0]"), ([[5], [6, 7, 100257]], "input[1][2]"), ([[10**400]], "input[0][0]")],
)
def test_an_id_of_another_vocabulary_is_refused_with_the_way_out(
    tiny_server: Server, path: str, given: Any, place: str
) -> None:
    message = error(ask(tiny_server, given, path), 400)["message"]
    assert place in message
    assert f"0 to {IDS - 1}" in message
    assert "check_embedding_ctx_length=False" in message
    assert ask(tiny_server, [IDS - 1], path).status == 200


def test_an_id_of_another_vocabulary_far_down_in_a_request_is_named(tiny_server: Server) -> None:
    assert "input[500][0]" in error(ask(tiny_server, [[5]] * 500 + [[IDS]]), 400)["message"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([[]], "input[0] is an empty array"),
        ([5, "a"], "input[1] must be a token id"),
        (["a", 5], "input[1] must be a string"),
        ([[5], 6], "input[1] must be an array of token ids"),
        ([[5], "a"], "input[1] must be an array of token ids"),
        ([[5, True]], "input[0][1] must be a token id"),
        ([5.5], "input[0] must be a string"),
        ([[-1]], "input[0][0] must be a token id"),
    ],
    ids=str,
)
def test_a_mixture_is_refused_where_it_begins(tiny_server: Server, given: Any, says: str) -> None:
    for path in ("/v1/embeddings", WIDE):
        assert says in error(ask(tiny_server, given, path), 400)["message"]


# ---- limits ------------------------------------------------------------------------------------------------


def test_the_narrow_path_names_the_wide_one(tiny_server: Server) -> None:
    for given in (["a"] * 97, [[5]] * 97, "a" * 2049):
        assert "/openai/v1" in error(ask(tiny_server, given, "/v1/embeddings"), 400)["message"]
        assert ask(tiny_server, given).status == 200
    body = b" " * 3_000_000
    assert "/openai/v1" in error(tiny_server.post(body), 413)["message"]
    assert "JSON" in error(tiny_server.post(body, WIDE), 400)["message"]
    assert "16777216" in error(tiny_server.post(b" " * (16 << 20) + b" ", WIDE), 413)["message"]


def test_2048_inputs_are_answered_in_order_and_one_more_is_refused(tiny_server: Server) -> None:
    texts = [f"pond {number}" for number in range(2048)]
    found = ask(tiny_server, texts).embeddings()
    for place in (0, 95, 96, 1000, 2047):
        assert [found[place]] == ask(tiny_server, texts[place]).embeddings()
    refused = error(ask(tiny_server, [*texts, "a"]), 400)
    assert "2049" in refused["message"]
    assert "2048" in refused["message"]
    assert refused["param"] == "input"


def test_a_text_of_any_length_is_cut(tiny_server: Server) -> None:
    answer = ask(tiny_server, ["frog " * 500_000, "frog"])
    assert answer.headers["x-senryu-truncated"] == "1"
    assert answer.embeddings()[0] == ask(tiny_server, "frog " * 100).embeddings()[0]


@pytest.fixture(scope="module")
def long_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a tiny model that reads 256 tokens, as the default one does; its settings are the defaults."""
    folder = make_model(tmp_path_factory.mktemp("models") / "long", max_seq_length=256, layers=1)
    with Server(tmp_path_factory.mktemp("long") / "home", folder) as server:
        yield server


def test_300000_tokens_pass_and_more_are_refused_for_good(long_server: Server) -> None:
    longest = [f"{number} " + "pond " * 252 for number in range(2048)]
    refused = error(ask(long_server, longest), 400)
    assert "300000" in refused["message"]
    assert (refused["type"], refused["param"]) == ("invalid_request_error", "input")
    answer = ask(long_server, longest[:1170])
    assert len(answer.embeddings()) == 1170
    assert 290_000 < answer.json()["usage"]["prompt_tokens"] <= 300_000


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 7}, "dimensions"),
        ({"dimensions": "7"}, "dimensions"),
        ({"user": 5}, "user"),
        ({"input": ["a", ""]}, "input"),
        ({"model": None}, "model"),
        ({"best_of": 1}, "best_of"),
    ],
    ids=str,
)
def test_a_bad_field_is_the_param(tiny_server: Server, fields: dict[str, Any], param: str) -> None:
    answer = tiny_server.post({"model": tiny_server.model_id, "input": "a", **fields}, WIDE)
    assert error(answer, 400)["param"] == param


def test_words_for_programs_are_openais(tiny_server: Server) -> None:
    body = {"model": "text-embedding-3-small", "input": "a"}
    assert error(tiny_server.post(body, WIDE, key="inf-" + "0" * 48), 401)["code"] == "invalid_api_key"
    assert error(tiny_server.post(body, WIDE), 403)["code"] == "model_not_found"
    assert error(tiny_server.get(WIDE), 405)["code"] == "method_not_supported"
    assert error(tiny_server.get("/openai/v1/nothing"), 404)["code"] is None


def test_the_lists_of_models_are_the_same_below_both_paths(tiny_server: Server) -> None:
    for path in ("models", f"models/{tiny_server.model_id}"):
        assert tiny_server.get(f"/openai/v1/{path}").json() == tiny_server.get(f"/v1/{path}").json()


# ---- answers of many rows ----------------------------------------------------------------------------------


def result(rows: int, kind: OutputType = OutputType.FLOAT) -> EmbedResult:
    codes = np.random.default_rng(0).standard_normal((rows, 32)).astype(np.float32)
    if kind is not OutputType.FLOAT:
        codes = (codes * 40).astype(np.int8)
    return EmbedResult("m", {kind: codes}, 4, 0, 0, "f")


@pytest.mark.parametrize("rows", [1, SLICE_ROWS, SLICE_ROWS + 1, 3 * SLICE_ROWS, 2048])
@pytest.mark.parametrize("kind", [OutputType.FLOAT, OutputType.INT8])
@pytest.mark.parametrize("encoding", heroku.Encoding)
def test_an_answer_written_in_slices_holds_every_row_once_and_in_order(
    rows: int, kind: OutputType, encoding: heroku.Encoding
) -> None:
    call = heroku.Call(EmbedRequest("m", ("a",) * rows), encoding)
    written = json.loads(heroku.render(call, result(rows, kind)))
    whole = result(rows, kind)
    (codes,) = whole.embeddings.values()
    for start in range(0, rows, SLICE_ROWS):
        part = replace(whole, embeddings={kind: codes[start : start + SLICE_ROWS]})
        alone = json.loads(heroku.render(call, part))["data"]
        found = written["data"][start : start + SLICE_ROWS]
        assert [item["embedding"] for item in found] == [item["embedding"] for item in alone]
    assert [item["index"] for item in written["data"]] == list(range(rows))
    assert list(written) == ["object", "data", "model", "usage"]


EVERY_TYPE = tuple(OutputType)


@pytest.mark.parametrize(
    ("rows", "types", "body_bytes", "on_the_loop"),
    [
        (1, EVERY_TYPE[:1], 100, True),
        (96, EVERY_TYPE[:1], app.INLINE_BYTES, True),
        (97, EVERY_TYPE[:1], 100, False),
        (2048, EVERY_TYPE[:1], 100, False),
        (19, EVERY_TYPE, 100, True),
        (20, EVERY_TYPE, 100, False),
        (1, EVERY_TYPE[:1], app.INLINE_BYTES + 1, False),
    ],
)
def test_a_long_answer_is_not_written_on_the_event_loop(
    rows: int, types: tuple[OutputType, ...], body_bytes: int, on_the_loop: bool
) -> None:
    threads: list[threading.Thread] = []

    def render(*_: Any, **__: Any) -> bytes:
        threads.append(threading.current_thread())
        return b"{}"

    async def receive() -> Any: ...

    exchange = Exchange({"method": "POST", "path": WIDE, "headers": []}, receive)
    dialect = replace(heroku.DIALECT, render=render)
    call = heroku.Call(EmbedRequest("m", ("a",) * rows, output_types=types), heroku.Encoding.RAW)
    asyncio.run(app._render(dialect, call, result(rows), exchange, body_bytes))
    assert [thread is threading.main_thread() for thread in threads] == [on_the_loop]


def test_a_setting_of_the_longest_body_holds_on_every_path(tiny_folder: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "home", tiny_folder, env={"SENRYU_MAX_BODY_BYTES": "2000"}) as server:
        for path in ("/v1/embeddings", WIDE, "/v2/embed", "/v1/embed"):
            answer = server.post(b" " * 2001, path)
            assert answer.status == 413
            assert b"2000" in answer.body
