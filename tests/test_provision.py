"""What a start leaves in the home: which resource EMBEDDING is, which keys are good, what the config vars say."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from senryu import config_vars
from senryu.cli.provision import create, provision
from senryu.config import Paths, Settings
from senryu.errors import SettingError, StoreError
from senryu.store import Attachment, Store, digest
from senryu.types import Resource
from server import Server, environment
from tiny import make_model

ORIGIN = "http://127.0.0.1:8080"
KEY, OTHER_KEY = "given-by-the-operator", "another-by-the-operator"


class Home:
    """A home of its own, and what a start of a model does to it."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.paths = Paths(folder, folder)
        self.store = store

    def start(self, model: str = "a", *, key: str | None = None, origin: str = ORIGIN) -> str:
        """Provision as a start does; returns EMBEDDING_KEY."""
        provision(self.store, Settings(self.paths, key=key), model, origin)
        return self.variables()["EMBEDDING_KEY"]

    def variables(self, app: str = "default") -> dict[str, str]:
        return config_vars.read(self.paths.config_vars, app)

    def embedding(self) -> Resource:
        """Return the resource that EMBEDDING stands for."""
        (attachment,) = (item for item in self.store.attachments("default") if item.alias == "EMBEDDING")
        return self.store.resource(attachment.resource_id)

    def good_for(self, secret: str) -> str | None:
        """Return the model that a key is good for; None for none."""
        models = {resource.id: resource.model_id for resource in self.store.resources()}
        for key in self.store.keys():
            if key.digest == digest(secret) and key.revoked_at is None:
                return "every model" if key.resource_id is None else models[key.resource_id]
        return None


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    paths = Paths(tmp_path / "home", tmp_path / "home")
    with Store.open(paths.database) as store:
        yield Home(paths.data, store)


def test_a_first_start_makes_a_resource_with_a_key_and_its_config_vars(home: Home) -> None:
    key = home.start()
    assert home.good_for(key) == "a"
    assert home.variables() == {
        "EMBEDDING_URL": ORIGIN,
        "EMBEDDING_KEY": key,
        "EMBEDDING_MODEL_ID": "a",
    }
    assert home.store.resources() == (home.embedding(),)


def test_a_second_start_changes_nothing(home: Home) -> None:
    home.start()
    before = home.store.resources(), home.store.attachments(), home.store.keys(), home.variables()
    home.start()
    assert before == (
        home.store.resources(), home.store.attachments(), home.store.keys(), home.variables()
    )  # fmt: skip


def test_embedding_moves_with_the_model_and_comes_back_to_its_resource(home: Home) -> None:
    first, one = home.start("a"), home.embedding()
    second, two = home.start("b"), home.embedding()
    assert (two.model_id, home.variables()["EMBEDDING_MODEL_ID"]) == ("b", "b")
    third = home.start("a")
    assert home.embedding() == one
    assert home.variables()["EMBEDDING_MODEL_ID"] == "a"
    assert home.store.resources() == (one, two)
    assert [home.good_for(key) for key in (first, second, third)] == ["a", "b", "a"]
    assert len({first, second, third}) == 3


def test_a_good_key_that_the_config_vars_hold_is_kept_when_embedding_comes_to_its_resource(
    home: Home,
) -> None:
    first, variables = home.start("a"), home.variables()
    home.start("b")
    config_vars.update(home.paths.config_vars, "default", variables)
    assert home.start("a") == first
    assert len(home.store.keys()) == 2


def test_a_key_for_every_model_that_the_config_vars_hold_is_kept(home: Home) -> None:
    _, secret = home.store.create_key(None)
    config_vars.update(home.paths.config_vars, "default", {"EMBEDDING_KEY": secret})
    assert [home.start("a"), home.start("b")] == [secret, secret]
    assert len(home.store.keys()) == 1


def test_a_revoked_key_in_the_config_vars_is_replaced(home: Home) -> None:
    first = home.start()
    home.store.revoke_key(home.store.keys()[0].id)
    second = home.start()
    assert [home.good_for(key) for key in (first, second)] == [None, "a"]


def test_lost_config_vars_are_made_again_with_a_new_key(home: Home) -> None:
    first = home.start()
    home.paths.config_vars.unlink()
    second = home.start()
    assert (home.good_for(first), home.good_for(second)) == ("a", "a")
    assert first != second
    assert home.variables()["EMBEDDING_URL"] == ORIGIN
    assert len(home.store.resources()) == 1


def test_a_resource_that_was_never_attached_is(home: Home) -> None:
    made = home.store.create_resource("a")
    assert home.good_for(home.start()) == "a"
    assert home.embedding() == made
    assert home.store.resources() == (made,)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_resource_that_goes_by_another_name_is_left_so(
    home: Home, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    made = home.store.create_resource("a")
    home.store.attach(made.id, app="default", alias="ANSWERS")
    provision(home.store, Settings(home.paths, key=key), "a", ORIGIN)
    assert home.store.attachments() == (Attachment("default", "ANSWERS", made.id),)
    assert home.store.keys() == ()
    assert home.variables() == {"ANSWERS_URL": ORIGIN}
    assert ("SENRYU_KEY is not used" in caplog.text) == (key is not None)


def test_every_url_of_every_app_follows_where_the_server_listens(home: Home) -> None:
    home.start()
    home.store.attach(home.embedding().id, app="shop", alias="ANSWERS")
    config_vars.update(home.paths.config_vars, "shop", {"ANSWERS_KEY": "theirs"})
    home.start(origin="http://elsewhere")
    assert home.variables()["EMBEDDING_URL"] == "http://elsewhere"
    assert home.variables("shop") == {"ANSWERS_URL": "http://elsewhere", "ANSWERS_KEY": "theirs"}


def test_a_given_key_is_registered_once_and_kept_without_being_given_again(home: Home) -> None:
    assert [home.start(key=KEY), home.start(key=KEY), home.start()] == [KEY, KEY, KEY]
    assert home.good_for(KEY) == "a"
    assert len(home.store.keys()) == 1


def test_a_given_key_goes_with_embedding_and_the_log_does_not_show_it(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    home.start("a", key=KEY)
    one = home.embedding()
    assert home.start("b", key=KEY) == KEY
    assert home.good_for(KEY) == "b"
    (key,) = home.store.keys()
    assert f"SENRYU_KEY (key {key.id}) is now for {home.embedding().name} (b)" in caplog.text
    assert f"it was for resource {one.id}" in caplog.text
    assert KEY not in caplog.text
    assert [home.start("a", key=KEY), home.good_for(KEY)] == [KEY, "a"]


@pytest.mark.parametrize("first", [None, KEY], ids=["made", "given"])
@pytest.mark.parametrize("model", ["a", "b"], ids=["same model", "another model"])
def test_a_changed_given_key_revokes_the_one_that_embedding_key_held(
    home: Home, first: str | None, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = home.start("a", key=first)
    old = home.store.keys()[0]
    assert home.start(model, key=OTHER_KEY) == OTHER_KEY
    assert (home.good_for(before), home.good_for(OTHER_KEY)) == (None, model)
    assert f"key {old.id} is revoked" in caplog.text
    assert before not in caplog.text
    assert OTHER_KEY not in caplog.text


def test_a_changed_given_key_revokes_no_other_key_of_the_resource(home: Home) -> None:
    home.start(key=KEY)
    _, other = home.store.create_key(home.embedding().id)
    home.start(key=OTHER_KEY)
    assert (home.good_for(KEY), home.good_for(other)) == (None, "a")


def test_a_key_for_every_model_is_neither_narrowed_nor_revoked(home: Home) -> None:
    home.store.create_key(None, secret=KEY)
    assert home.start(key=KEY) == KEY
    home.start(key=OTHER_KEY)
    assert home.good_for(KEY) == "every model"


def test_a_revoked_key_given_again_is_refused_before_any_change(home: Home) -> None:
    home.start("a", key=KEY)
    home.start("a", key=OTHER_KEY)
    before = home.store.revision(), home.variables()
    with pytest.raises(SettingError, match=r"^SENRYU_KEY: .* revoked on .*; choose another one\.$") as error:
        home.start("b", key=KEY)
    assert KEY not in str(error.value)
    assert (home.store.revision(), home.variables()) == before


def test_a_lock_that_cannot_be_taken_is_an_error_of_one_line(home: Home) -> None:
    (home.paths.data / "provision.lock").mkdir()
    with pytest.raises(StoreError) as error:
        home.start()
    assert str(error.value) == f"lock {home.paths.data / 'provision.lock'}: Is a directory"
    assert home.store.resources() == ()


def test_config_vars_that_are_damaged_stop_the_start_before_any_change(home: Home) -> None:
    home.paths.config_vars.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        home.start()
    assert (home.store.resources(), home.store.keys()) == ((), ())


def test_a_resource_whose_config_vars_cannot_be_written_is_not_made_and_can_be_again(home: Home) -> None:
    home.paths.config_vars.write_text("{")
    made = partial(create, home.store, Settings(home.paths), "a", app="shop", alias="B", name="n", served=())
    with pytest.raises(StoreError, match="damaged"):
        made()
    assert (home.store.resources(), home.store.attachments(), home.store.keys()) == ((), (), ())
    home.paths.config_vars.unlink()
    assert made().name == "n"
    assert home.good_for(home.variables("shop")["B_KEY"]) == "a"


PROVISION_WHEN_TOLD = """
import sys
from pathlib import Path
from senryu.cli.provision import provision
from senryu.config import Paths, Settings
from senryu.store import Store
homes = [Paths(Path(path), Path(path)) for path in sys.argv[1:]]
stores = [Store.open(home.database) for home in homes]
print("ready", flush=True)
sys.stdin.readline()
for home, store in zip(homes, stores):
    provision(store, Settings(home), "a", "http://127.0.0.1:8080")
"""


def test_starts_at_once_find_what_the_first_one_made(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) for number in range(20)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROVISION_WHEN_TOLD, *map(str, homes)],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ends = [racer.communicate() for racer in racers]
    assert [(racer.returncode, end[1]) for racer, end in zip(racers, ends, strict=True)] == [(0, "")] * 4
    for folder in homes:
        with Store.open(folder / "senryu.db") as store:
            assert len(store.resources()) == len(store.attachments()) == len(store.keys()) == 1
            home = Home(folder, store)
            assert home.good_for(home.variables()["EMBEDDING_KEY"]) == "a"


def begin(home: Path, model: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "senryu", "serve", "--model", str(model), "--port", "0"],
        env=environment(home), cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def listening(process: subprocess.Popen[str]) -> str:
    """Read what a process prints, up to where it listens; fails with that if it ends before."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.strip().startswith("listening"):
            return line.split()[1]
    raise AssertionError("".join(lines))


def status(url: str, key: str, model: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"model": model, "input": ["hello"]})
    connection.request("POST", "/v1/embeddings", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_two_first_starts_at_once_serve_with_one_resource_and_one_key(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with ExitStack() as running:
        processes = [begin(tmp_path, tiny_folder) for _ in range(2)]
        for process in processes:
            running.callback(end, process)
        urls = [listening(process) for process in processes]
        variables = config_vars.read(tmp_path / "config-vars.json", "default")
        key, model = variables["EMBEDDING_KEY"], variables["EMBEDDING_MODEL_ID"]
        assert [status(url, key, model) for url in urls] == [200, 200]
        assert variables["EMBEDDING_URL"] in urls
        with Store.open(tmp_path / "senryu.db") as store:
            assert len(store.resources()) == len(store.attachments()) == len(store.keys()) == 1
        for process in processes:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output


def test_a_key_that_was_rotated_is_refused_by_the_next_server(tiny_folder: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "home", tiny_folder) as first:
        assert first.embed("hello").status == 200
    with Server(tmp_path / "home", tiny_folder) as second:
        assert second.embed("hello").status == 200
        assert status(second.url, first.key, second.model_id) == 401


def test_a_model_that_cannot_be_loaded_leaves_embedding_where_it_was(
    tiny_folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with Server(home, tiny_folder):
        pass
    before = (home / "config-vars.json").read_bytes()
    broken = make_model(tmp_path / "broken")
    other = make_model(tmp_path / "other", layers=1)
    os.replace(other / "model.safetensors", broken / "model.safetensors")
    process = begin(home, broken)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "encoder.layer.1" in output
    assert (home / "config-vars.json").read_bytes() == before
    with Store.open(home / "senryu.db") as store:
        assert [resource.model_id for resource in store.resources()] == [tiny_folder.name]
