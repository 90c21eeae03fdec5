"""What each SDK raises for what can go wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cohere
import litellm
import openai
import pytest
from sdks import SDKS, Vectors

from server import Server
from tiny import make_model

OPENAI: dict[int, type[Exception]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    429: openai.RateLimitError,
    503: openai.InternalServerError,
}
COHERE: dict[int, type[Exception]] = {
    400: cohere.BadRequestError,
    401: cohere.UnauthorizedError,
    403: cohere.ForbiddenError,
    429: cohere.TooManyRequestsError,
    503: cohere.ServiceUnavailableError,
}
LITELLM: dict[int, type[Exception]] = {
    400: litellm.BadRequestError,
    401: litellm.AuthenticationError,
    403: litellm.APIError,  # litellm has a class for it, and does not use it
    429: litellm.RateLimitError,
    503: litellm.InternalServerError,  # it asks again, and there is no server any more
}
RAISED: dict[str, dict[int, type[Exception]]] = {
    "openai_sync": OPENAI,
    "openai_async": OPENAI,
    "langchain": OPENAI,
    "llama_index_openai": OPENAI,
    "cohere_v1": COHERE,
    "cohere_v2": COHERE,
    "litellm_openai": LITELLM,
    "llama_index_heroku": dict.fromkeys((400, 401, 403, 429, 503), ValueError),
}
ONE_BY_ONE = "llama_index_heroku"  # sends each text alone, and says of an error no more than its status


def demand(error: BaseException | None, sdk: str, status: int, said: str) -> None:
    """Fail unless the error is exactly of the SDK's class for the status, and says what the server said."""
    assert type(error) is RAISED[sdk][status], repr(error)
    if (sdk, status) != ("litellm_openai", 503):
        assert str(status) in str(error)
        assert sdk == ONE_BY_ONE or said in str(error)


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    """The name of an SDK."""
    return str(request.param)


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def test_every_sdk_has_its_exceptions_listed() -> None:
    assert RAISED.keys() == SDKS.keys()


def test_a_wrong_key_is_401(server: Server, sdk: str) -> None:
    error = raised(lambda: SDKS[sdk](server.url, "inf-wrong", server.model_id, ["frog"]))
    demand(error, sdk, 401, "key")


def test_a_model_that_the_key_is_not_for_is_403(server: Server, sdk: str) -> None:
    error = raised(lambda: SDKS[sdk](server.url, server.key, "another-model", ["frog"]))
    demand(error, sdk, 403, server.model_id)


def test_more_texts_than_allowed_are_400(server: Server, sdk: str) -> None:
    if sdk == ONE_BY_ONE:
        error = raised(lambda: SDKS[sdk](server.url, server.key, server.model_id, ["x" * 2049]))
        demand(error, sdk, 400, "2049")
    elif sdk == "llama_index_openai":  # sends 100 a call
        error = raised(lambda: SDKS[sdk](server.url, server.key, server.model_id, ["frog"] * 100))
        demand(error, sdk, 400, "100")
    else:
        error = raised(lambda: SDKS[sdk](server.url, server.key, server.model_id, ["frog"] * 97))
        demand(error, sdk, 400, "97")


# ---- overload and the end ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in whose queue no text has room."""
    folder = make_model(tmp_path_factory.mktemp("models") / "tiny-narrow")
    with Server(tmp_path_factory.mktemp("narrow"), folder, env={"SENRYU_QUEUE_TOKENS": "1"}) as running:
        yield running


def test_a_full_queue_is_429(narrow: Server, sdk: str) -> None:
    error = raised(lambda: SDKS[sdk](narrow.url, narrow.key, narrow.model_id, ["frog"]))
    demand(error, sdk, 429, "")


def gauge(server: Server, *parts: str) -> float:
    """Return the sum of the metrics whose lines hold all parts."""
    lines = server.get("/metrics", key=None).body.decode().splitlines()
    chosen = [line for line in lines if line[0] != "#" and all(part in line for part in parts)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in chosen)


def answers(server: Server, status: int) -> float:
    """Return how many embeddings requests were answered with a status."""
    return gauge(server, "senryu_requests_total{", "/v1/embeddings", f'status="{status}"')


def test_openai_tries_again_what_is_worth_it_and_nothing_else(narrow: Server) -> None:
    before = answers(narrow, 429), answers(narrow, 400)
    with openai.OpenAI(base_url=narrow.url + "/v1", api_key=narrow.key, max_retries=1) as client:
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model=narrow.model_id, input="frog")
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=narrow.model_id, input="")
    assert answers(narrow, 429) - before[0] == 2
    assert answers(narrow, 400) - before[1] == 1


BATCHING = [name for name in SDKS if name != ONE_BY_ONE]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseException | None]:
    """What each SDK raised when the server was told to stop while it computed for all of them, by SDK.

    The model needs many seconds for what they ask, and the server gives them one.
    """
    folder = make_model(
        tmp_path_factory.mktemp("models") / "slow", layers=8, hidden=384, heads=12, max_seq_length=512
    )
    env = {"SENRYU_DRAIN_SECONDS": "1", "SENRYU_QUEUE_TOKENS": "1000000"}
    with (
        ThreadPoolExecutor(len(BATCHING)) as pool,
        Server(tmp_path_factory.mktemp("slow"), folder, env=env) as server,
    ):
        calls = {
            name: pool.submit(SDKS[name], server.url, server.key, server.model_id, long_texts(name))
            for name in BATCHING
        }
        wait_until_queued(server, len(BATCHING), calls)
        server.stop()
        return {name: call.exception(30) for name, call in calls.items()}


def long_texts(name: str) -> list[str]:
    """Return a full request of texts that no other call has: a text is computed once for all that wait for it."""
    return [f"{name} {number} " + "frog " * 390 for number in range(96)]


def wait_until_queued(server: Server, requests: int, calls: dict[str, Future[Vectors]]) -> None:
    """Return when every call is in the server, where a few texts of the first may be computed already."""
    deadline = time.monotonic() + 60
    while gauge(server, "senryu_queue_tokens ") < (requests - 0.5) * 96 * 390:
        assert time.monotonic() < deadline, "the calls did not reach the queue"
        early = {name: call.exception() for name, call in calls.items() if call.done()}
        assert early == {}
        time.sleep(0.02)


@pytest.mark.parametrize("name", BATCHING)
def test_a_server_that_stops_before_it_is_done_is_503(
    interrupted: dict[str, BaseException | None], name: str
) -> None:
    demand(interrupted[name], name, 503, "")


def test_a_server_that_is_gone_is_a_connection_error(server: Server, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "gone")
    with Server(tmp_path / "home", folder) as gone:
        client = openai.OpenAI(base_url=gone.url + "/v1", api_key=gone.key, max_retries=0)
        client.embeddings.create(model=gone.model_id, input="frog")
    with client, pytest.raises(openai.APIConnectionError):
        client.embeddings.create(model=gone.model_id, input="frog")
