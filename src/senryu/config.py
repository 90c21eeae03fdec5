"""Settings: one frozen dataclass, read once, in the order argv, environment, settings file, default.

The only module that reads the environment or the settings file. It knows nothing of what the settings do.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from senryu.errors import SettingError

DEFAULT_MODEL = "all-minilm-l6-v2"
MIN_KEY_CHARS = 20


@dataclass(frozen=True, slots=True)
class Paths:
    """Where state lives: under SENRYU_HOME if it is set, else under the XDG folders."""

    data: Path  # models and the database
    config: Path  # settings.toml and the config vars

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def database(self) -> Path:
        return self.data / "senryu.db"

    @property
    def config_vars(self) -> Path:
        return self.config / "config-vars.json"

    @property
    def settings_file(self) -> Path:
        return self.config / "settings.toml"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Paths:
        """The XDG base directory rules: an unset, empty or relative variable means its default."""
        environ = os.environ if environ is None else environ
        if home := environ.get("SENRYU_HOME"):
            root = Path(home).expanduser().absolute()
            return cls(data=root, config=root)

        def base(variable: str, default: str) -> Path:
            value = environ.get(variable, "")
            return Path(value) if value.startswith("/") else _home() / default

        return cls(
            data=base("XDG_DATA_HOME", ".local/share") / "senryu",
            config=base("XDG_CONFIG_HOME", ".config") / "senryu",
        )


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise SettingError(
            "there is no home folder; set SENRYU_HOME to a folder for models and state."
        ) from None


def _integer(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | str)
            or not re.fullmatch("[0-9]{1,10}", str(value))
        ):
            raise ValueError(f"a whole number from {least} to {most}")
        if not least <= int(value) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    return parse


def _choice(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return str(value)

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _origin(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^/\s?#]+/?", value):
        raise ValueError("an origin without a path, such as https://embed.example.com")
    return value.rstrip("/")


def _key(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{{MIN_KEY_CHARS},200}}", value):
        raise ValueError(f"{MIN_KEY_CHARS} to 200 printable ASCII characters without spaces")
    return value


def _database_url(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"postgres(ql)?://\S+", value):
        raise ValueError("postgresql://user:password@host:port/database, or the same with postgres://")
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and re.fullmatch(r"[!-+\--~]{1,200}", name) for name in names
    ):
        raise ValueError("names of 1 to 200 printable ASCII characters without spaces, separated by commas")
    return tuple(dict.fromkeys(names))


def _models(value: Any) -> tuple[str, ...]:
    models = value.split(",") if isinstance(value, str) else value
    if (
        not isinstance(models, list | tuple)
        or not models
        or not all(m and isinstance(m, str) for m in models)
    ):
        raise ValueError("names from the catalog or folders, separated by commas")
    return tuple(dict.fromkeys(models))


def _prompts(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        value = [f"{name}={text}" for name, text in value.items()]
    prompts = value.split("\n") if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple) or not all(
        isinstance(one, str) and "=" in one for one in prompts
    ):
        raise ValueError('INPUT_TYPE=TEXT, such as "search_query=query: ", each on a line of its own')
    return tuple(prompts)


def _boolean(value: Any) -> bool:
    known = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if value not in known:
        raise ValueError("true or false")
    return known[value]


def _setting(default: Any, parse: Callable[[Any], Any], doc: str, *env: str, secret: bool = False) -> Any:
    return field(
        default=default, repr=not secret, metadata={"parse": parse, "doc": doc, "env": env, "secret": secret}
    )


def option(setting: Field[Any]) -> str:
    """Return the option of the command line that gives a setting; one that takes several is given several times."""
    name = setting.name.removesuffix("s") if isinstance(setting.default, tuple) else setting.name
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of the server. Each is validated once, here; a test holds docs/settings.md to this list."""

    paths: Paths
    host: str = _setting("127.0.0.1", _text, "Address to listen on.", "SENRYU_HOST")
    port: int = _setting(
        8080, _integer(0, 65535), "Port to listen on; 0 takes a free one.", "SENRYU_PORT", "PORT"
    )
    share_port: bool = _setting(
        False,
        _boolean,
        "Whether other servers of this user may listen on the same port; the system spreads connections over them.",
        "SENRYU_SHARE_PORT",
    )
    public_url: str | None = _setting(
        None, _origin, "Origin that clients use, where a proxy stands in front.", "SENRYU_PUBLIC_URL"
    )
    models: tuple[str, ...] = _setting(
        (DEFAULT_MODEL,),
        _models,
        "Models to serve: names from the catalog, or folders; the first is EMBEDDING's.",
        "SENRYU_MODELS",
        "SENRYU_MODEL",
    )
    on_demand: bool = _setting(
        True,
        _boolean,
        "Whether models of other resources are loaded when first asked for, if they have been pulled.",
        "SENRYU_ON_DEMAND",
    )
    memory_mib: int | None = _setting(
        None,
        _integer(1, 1 << 30),
        "Memory for models, in MiB; by default four fifths of what the machine or the cgroup has.",
        "SENRYU_MEMORY_MIB",
    )
    served_names: tuple[str, ...] = _setting(
        (),
        _names,
        "Names that the first model answers to besides its own, so that ids in other people's code keep working.",
        "SENRYU_SERVED_NAMES",
    )
    prompts: tuple[str, ...] = _setting(
        (),
        _prompts,
        "Prompts in front of texts by input_type, over the first model's own: search_query=TEXT.",
        "SENRYU_PROMPTS",
    )
    engine: str = _setting(
        "auto",
        _choice("auto", "native", "openvino", "exported", "reference"),
        "What computes: our kernels (native) or openvino our encoders, exported the graph that a repository ships.",
        "SENRYU_ENGINE",
    )
    precision: str = _setting(
        "auto",
        _choice("auto", "f32", "bf16", "int8"),
        "Number format of the matrix products; auto takes bf16 where the processor has it, and never int8.",
        "SENRYU_PRECISION",
    )
    threads: int | None = _setting(
        None,
        _integer(1, 1024),
        "Processor threads for the engine; by default what the cgroup and the affinity mask allow.",
        "SENRYU_THREADS",
    )
    queue_tokens: int = _setting(
        393_216,  # a request of 300,000, the most that OpenAI's dialect takes, and much more beside it
        _integer(1, 1_000_000_000),
        "Tokens that may wait for the engine; beyond it requests are answered with 429.",
        "SENRYU_QUEUE_TOKENS",
    )
    max_body_bytes: int | None = _setting(
        None,
        _integer(1024, 1 << 30),
        "Longest request body; by default what the longest legal request can need.",
        "SENRYU_MAX_BODY_BYTES",
    )
    body_seconds: int = _setting(
        30, _integer(1, 3600), "Seconds in which a request body must arrive.", "SENRYU_BODY_SECONDS"
    )
    request_seconds: int = _setting(
        60,
        _integer(1, 3600),
        "Longest that a request may take once its body is here; then it is answered with 503.",
        "SENRYU_REQUEST_SECONDS",
    )
    drain_seconds: int = _setting(
        30,
        _integer(0, 3600),
        "Seconds that requests in flight get to finish after SIGTERM.",
        "SENRYU_DRAIN_SECONDS",
    )
    log_format: str = _setting(
        "auto",
        _choice("auto", "json", "pretty"),
        "json, or pretty for people; auto is pretty on a terminal.",
        "SENRYU_LOG_FORMAT",
    )
    log_level: str = _setting(
        "info", _choice("debug", "info", "warning", "error"), "Least severe log level.", "SENRYU_LOG_LEVEL"
    )
    database_url: str | None = _setting(
        None,
        _database_url,
        "PostgreSQL for resources, keys and usage; by default they are in a file.",
        "SENRYU_DATABASE_URL",
        "DATABASE_URL",
        secret=True,
    )
    database_away_seconds: int = _setting(
        3600,
        _integer(1, 30 * 86_400),
        "Seconds for which known keys go on working while the database is away; then 503.",
        "SENRYU_DATABASE_AWAY_SECONDS",
    )
    key: str | None = _setting(
        None,
        _key,
        "Key for the first resource, for CI and containers; by default one is made.",
        "SENRYU_KEY",
        secret=True,
    )

    @property
    def model(self) -> str:
        """The first of `models`."""
        return self.models[0]

    @property
    def database(self) -> Path | str:
        """What `Store.open` takes: a file, or the URL of a PostgreSQL, which may hold a password."""
        return self.database_url or self.paths.database

    @classmethod
    def load(
        cls,
        argv: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        paths: Paths | None = None,
    ) -> Settings:
        """Read the settings; `argv` holds what the command line gave, None where it gave nothing.

        Raises SettingError naming the key, where it was set, and what it accepts.
        """
        environ = os.environ if environ is None else environ
        paths = paths or Paths.from_environ(environ)
        from_file = _read_file(paths.settings_file)
        values: dict[str, Any] = {}
        for setting in fields(cls):
            if setting.name == "paths":
                continue
            found = _first_given(setting, argv or {}, environ, from_file)
            if found is None:
                continue
            where, value = found
            try:
                values[setting.name] = setting.metadata["parse"](value)
            except ValueError as error:
                shown = "that" if setting.metadata["secret"] else repr(value)
                raise SettingError(f"{where}: {shown} is not allowed; it takes {error}.") from None
        return cls(paths=paths, **values)


def _first_given(
    setting: Field[Any], argv: Mapping[str, Any], environ: Mapping[str, str], from_file: Mapping[str, Any]
) -> tuple[str, Any] | None:
    name = setting.name
    if argv.get(name) is not None:
        return option(setting), argv[name]
    for variable in setting.metadata["env"]:
        if environ.get(variable):  # NOTE: an empty variable counts as unset, as containers pass them
            return variable, environ[variable]
    for spelling in (name, option(setting)[2:].replace("-", "_")):  # `model` is one of `models`
        if spelling in from_file:
            return f"settings.toml: {spelling}", from_file[spelling]
    return None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from None
    settings = [setting for setting in fields(Settings) if setting.name != "paths"]
    known = {setting.name for setting in settings}
    if unknown := sorted(
        content.keys() - known - {option(setting)[2:].replace("-", "_") for setting in settings}
    ):
        raise SettingError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    return content
