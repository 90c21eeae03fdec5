"""Limits, keys and what is logged of them, over HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local import Local
from senryu.store import Store
from senryu.types import Batch, Usage
from server import Answer

SECOND = 10**9
PATHS = ["/v1/embeddings", "/embeddings", "/openai/v1/embeddings", "/v1/embed", "/v2/embed"]


@pytest.fixture
def local(tiny_folder: Path, tmp_path: Path) -> Iterator[Local]:
    with Local(tiny_folder, tmp_path / "home") as running:
        yield running


def limits(answer: Answer) -> dict[str, str]:
    return {
        name.removeprefix("x-ratelimit-"): value
        for name, value in answer.headers.items()
        if name.startswith("x-ratelimit-")
    }


def body(local: Local, path: str, text: str = "frog") -> dict[str, Any]:
    if "embeddings" in path:
        return {"model": local.model_id, "input": [text]}
    return {"model": local.model_id, "texts": [text], "input_type": "search_document"}


def tokens(local: Local, text: str) -> int:
    answer = local.embed(local.key(), text)
    return int(answer.json()["usage"]["prompt_tokens"])


def used(local: Local) -> list[Usage]:
    """Return what has been used, when nothing is waiting to be written."""
    while local.ledger.waiting:
        pass
    return list(local.store.usage())


# ---- headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_key_without_limits_is_told_of_none(local: Local, path: str) -> None:
    answer = local.post(local.key(), body(local, path), path)
    assert answer.status == 200
    assert limits(answer) == {}


@pytest.mark.parametrize("path", PATHS)
def test_a_limited_key_is_told_where_it_stands(local: Local, path: str) -> None:
    cost = tokens(local, "frog")
    key = local.key(requests_per_minute=500, tokens_per_minute=800_000)
    local.post(key, body(local, path), path)
    local.now_ns += 9 * SECOND
    answer = local.post(key, body(local, path), path)
    assert answer.status == 200
    assert limits(answer) == {
        "limit-requests": "500",
        "remaining-requests": "498",
        "reset-requests": "51s",
        "limit-tokens": "800000",
        "remaining-tokens": str(800_000 - 2 * cost),
        "reset-tokens": "51s",
    }


def test_one_limit_is_told_alone(local: Local) -> None:
    answer = local.embed(local.key(requests_per_minute=2), "frog")
    assert set(limits(answer)) == {"limit-requests", "remaining-requests", "reset-requests"}


def test_every_answer_to_a_limited_key_tells(local: Local) -> None:
    key = local.key(requests_per_minute=10)
    for path in ("/v1/models", f"/models/{local.resource.id}", "/v1/models/none"):
        assert limits(local.ask("GET", path, key))["remaining-requests"] == "10"
    assert limits(local.post(key, b"no JSON"))["remaining-requests"] == "9"
    assert limits(local.post(key, {"model": "none", "input": "frog"}))["remaining-requests"] == "8"


# ---- refusals ------------------------------------------------------------------------------------------------


def test_too_many_requests_are_refused_and_told_when_to_come_back(local: Local) -> None:
    key = local.key(requests_per_minute=2)
    local.embed(key, "frog")
    local.now_ns += 10 * SECOND
    local.embed(key, "frog")
    local.now_ns += SECOND // 2
    answer = local.embed(key, "frog")
    assert answer.status == 429
    assert answer.headers["retry-after"] == "50"
    assert answer.headers["retry-after-ms"] == "49500"
    assert limits(answer) == {"limit-requests": "2", "remaining-requests": "0", "reset-requests": "50s"}
    error = answer.json()["error"]
    assert error["type"] == "rate_limit_error"
    assert error["message"] == (
        "The limit of this key is 2 requests a minute; 2 were used in the last 60 s. Try again in 49.5 s."
    )
    local.now_ns += 49_499 * 10**6
    assert local.embed(key, "frog").status == 429
    local.now_ns += 10**6
    assert local.embed(key, "frog").status == 200


def test_too_many_tokens_are_refused_and_told_when_to_come_back(local: Local) -> None:
    cost = tokens(local, "frog")
    key = local.key(tokens_per_minute=2 * cost)
    local.embed(key, "frog", "frog")
    local.now_ns += 1
    answer = local.embed(key, "frog")
    assert answer.status == 429
    assert answer.headers["retry-after-ms"] == "60000"
    assert limits(answer)["remaining-tokens"] == "0"
    assert f"{2 * cost} tokens a minute" in answer.json()["error"]["message"]
    local.now_ns += 60 * SECOND - 2
    assert local.embed(key, "frog").status == 429
    local.now_ns += 1
    assert local.embed(key, "frog").status == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/embeddings", {"error": {"code": 429, "message": "…", "type": "rate_limit_error"}}),
        (
            "/openai/v1/embeddings",
            {
                "error": {
                    "message": "…",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "rate_limit_exceeded",
                }
            },
        ),
        ("/v2/embed", {"id": "…", "message": "…"}),
    ],
)
def test_a_refusal_has_the_shape_of_its_dialect(local: Local, path: str, words: dict[str, Any]) -> None:
    key = local.key(requests_per_minute=1)
    local.post(key, body(local, path), path)
    answer = local.post(key, body(local, path), path)
    assert answer.status == 429
    said = answer.json()
    holder = said.get("error", said)
    assert "requests a minute" in holder["message"]
    assert answer.headers["content-type"] == "application/json"
    holder["message"] = "…"
    if "id" in holder:
        holder["id"] = "…"
    assert said == words


def test_a_body_that_is_refused_unread_does_not_break_the_connection(local: Local) -> None:
    key = local.key(requests_per_minute=1)
    with contextlib.closing(local.connection()) as connection:
        for _ in range(3):
            answer = local.post(key, {"input": ["x" * 2000] * 90}, connection=connection)
        assert answer.status == 429
        assert local.post(local.key(), {"input": "frog"}, connection=connection).status == 200


def test_what_is_not_answered_gives_its_tokens_back(local: Local) -> None:
    key = local.key(requests_per_minute=10, tokens_per_minute=1000)
    assert local.embed(key, "frog", dimensions=7).status == 400
    assert local.post(key, {"input": []}).status == 400
    assert limits(local.post(key, {"input": 7}))["remaining-tokens"] == "1000"
    assert limits(local.post(key, {"input": 7}))["remaining-requests"] == "6"


def test_one_refused_for_its_tokens_has_cost_a_request_and_one_that_we_cannot_answer_has_not(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: Batch) -> None:
        raise RuntimeError("broken")

    key = local.key(requests_per_minute=10, tokens_per_minute=1)
    assert local.embed(key, "frog").status == 429
    assert limits(local.ask("GET", "/v1/models", key))["remaining-requests"] == "9"
    key = local.key(requests_per_minute=10, tokens_per_minute=1000)
    monkeypatch.setattr(local.engine, "run", broken)
    answer = local.embed(key, "frog")
    assert answer.status == 500
    assert limits(answer) == limits(local.ask("GET", "/v1/models", key)) == {
        "limit-requests": "10", "remaining-requests": "10", "reset-requests": "0s",
        "limit-tokens": "1000", "remaining-tokens": "1000", "reset-tokens": "0s",
    }  # fmt: skip


# ---- scope and expiry ----------------------------------------------------------------------------------------


def test_an_expired_key_is_told_so(local: Local) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    answer = local.embed(local.key(expires_at=past), "frog")
    assert answer.status == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert "expired" in answer.json()["error"]["message"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_of_another_resource_is_told_what_it_is_for(local: Local) -> None:
    other = local.store.create_resource("other-model")
    _, secret = local.store.create_key([other.id])
    local.admission.reload()
    answer = local.embed(secret, "frog")
    assert answer.status == 403
    assert "This key is for the model 'other-model'" in answer.json()["error"]["message"]


# ---- a key in the URL, and what is logged --------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS, "/openai/nothing", "/v2/nothing", "/nothing", "/docs", "/livez"])
def test_a_key_in_the_url_is_refused_everywhere_and_repeated_nowhere(
    local: Local, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    key = local.key()
    assert key.startswith("inf-")
    method, data = ("POST", json.dumps(body(local, path))) if path in PATHS else ("GET", None)
    with caplog.at_level(logging.DEBUG):
        for place in (
            f"{path}?api_key={key}",
            f"{path}?q={key}",
            f"{path}/{key}",
            f"{path}?token=secret-of-mine",
        ):
            answer = local.ask(method, place, key, data, x_request_id=f"my-{key}")
            assert answer.status == 401
            assert "must not be in the URL" in str(answer.json())
            told = answer.body.decode() + str(answer.headers)
            assert key not in told
            assert "secret-of-mine" not in told
            shape = "cohere" if path.startswith("/v2") or place.startswith("/v1/embed?") else "others"
            assert set(answer.json()) == ({"id", "message"} if shape == "cohere" else {"error"})
        local.close()  # NOTE: or the last answer may come before its line
    logged = str([vars(record) for record in caplog.records if record.name.startswith("senryu")])
    assert logged.count("'status': 401") == 4
    assert key not in logged
    assert "secret-of-mine" not in logged


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.name == "senryu.request"]  # type: ignore[attr-defined]


def test_a_line_tells_who_asked_for_what_and_how_it_went(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    secret = local.key(requests_per_minute=3)
    key = local.store.keys()[-1]
    with caplog.at_level(logging.INFO):
        local.embed(secret, "frog", "pond")
        local.embed(secret, "")
        local.post(secret, b"no JSON")
        local.embed(secret, "frog")
        local.close()
    answered, empty, broken, limited = lines(caplog)
    stages = {"auth_ms", "tokenize_ms", "queue_ms", "infer_ms", "encode_ms"}
    told = {"id", "method", "route", "status", "ms", "key", "model"}
    assert set(answered) == told | stages | {"texts", "tokens", "truncated", "unknown_tokens"}
    assert (answered["status"], answered["texts"]) == (200, 2)
    for line, status in ((empty, 400), (broken, 400), (limited, 429)):
        assert line["status"] == status
        assert set(line) >= told
    for line in (answered, empty, broken, limited):
        assert (line["key"], line["model"]) == (key.id, local.model_id)
    assert secret not in str([vars(record) for record in caplog.records])
    assert "frog" not in str(lines(caplog))


# ---- usage ---------------------------------------------------------------------------------------------------


def test_usage_is_what_the_client_was_told(local: Local) -> None:
    first, second = local.key(), local.key(requests_per_minute=1)
    ids = [key.id for key in local.store.keys()]
    told = [local.embed(first, *["the old pond"] * n).json()["usage"]["prompt_tokens"] for n in (1, 2, 3)]
    local.embed(first, "frog", dimensions=7)
    local.post(first, b"no JSON")
    local.post(first, {"model": "none", "input": "frog"})
    told_second = local.embed(second, "frog").json()["usage"]["prompt_tokens"]
    local.embed(second, "frog")
    by_key = {row.key_id: row for row in used(local)}
    day = by_key[ids[0]].day
    assert by_key[ids[0]] == Usage(
        ids[0], local.model_id, day, requests=3, texts=6, tokens=sum(told), errors=2
    )
    assert by_key[ids[1]] == Usage(
        ids[1], local.model_id, day, requests=1, texts=1, tokens=told_second, errors=1
    )


def test_a_request_that_is_cut_off_at_the_end_is_an_error_and_counted(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with Local(tiny_folder, tmp_path / "home", drain_seconds=0) as local, ThreadPoolExecutor(8) as pool:
        key = local.key()
        local.engine.open.clear()
        local.engine.began.clear()
        answers = [pool.submit(local.embed, key, "frog") for _ in range(8)]
        assert local.engine.began.wait(30)
        local.stop()
        assert [answer.result().status for answer in answers] == [503] * 8
        local.close()
        with Store.open(tmp_path / "home" / "senryu.db") as store:
            (row,) = store.usage()
    assert (row.requests, row.tokens, row.errors) == (0, 0, 8)


def test_a_client_that_hangs_up_is_an_error_and_costs_nothing(local: Local) -> None:
    key = local.key(requests_per_minute=10, tokens_per_minute=1000)
    local.engine.open.clear()
    local.engine.began.clear()
    connection = local.connection()
    data = json.dumps({"model": local.model_id, "input": "frog"})
    connection.request("POST", "/v1/embeddings", data, {"Authorization": f"Bearer {key}"})
    assert local.engine.began.wait(30)
    connection.close()
    while not local.ledger.waiting and not local.store.usage():
        pass
    local.engine.open.set()
    (row,) = used(local)
    assert (row.requests, row.texts, row.tokens, row.errors) == (0, 0, 0, 1)
    answer = local.embed(key, "frog")
    assert limits(answer)["remaining-requests"] == "8"
    assert limits(answer)["remaining-tokens"] == str(1000 - answer.json()["usage"]["prompt_tokens"])
