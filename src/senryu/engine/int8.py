"""Static int8: the windows of a model's layers as a file, and which file belongs to which model.

Knows the file's formats, this one and the older; what a window is and what is made from it is windows.py's.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.engine.windows import Window, as_stored, at_mean
from senryu.errors import ModelError
from senryu.models import ModelSpec, file_hashes

FORMAT = "senryu-int8-2"
WITH_MEANS = (
    "senryu-int8-1"  # without splits, and with the mean of each channel instead of what rounding made of it
)
FORMATS = (WITH_MEANS, FORMAT)
FILE = "int8.json"  # in a model's folder


@dataclass(frozen=True, slots=True)
class Loss:
    """What int8 costs against f32, on texts that the calibration did not see."""

    texts: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    rank_correlation: float  # Spearman's, over the similarities of all pairs
    top10_overlap: float  # of the ten nearest of each text, the share that stays among them


@dataclass(frozen=True, slots=True)
class Calibration:
    """The windows of a model's layers by name; layers that read the same input share one window."""

    model: str
    weights: Mapping[str, str]  # sha256 of the weights' files by name
    texts: int
    tokens: int
    texts_sha256: str
    windows: Mapping[str, Window]
    loss: Loss | None = None

    @property
    def fingerprint(self) -> str:
        """Return a short hash of everything that decides bits."""
        return hashlib.sha256(_canonical(_windows_json(self.windows))).hexdigest()[:16]

    def dumps(self) -> str:
        """Write the file; the same calibration gives the same bytes."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model,
            "weights": dict(self.weights),
            "calibration": {"texts": self.texts, "tokens": self.tokens, "sha256": self.texts_sha256},
            "loss": asdict(self.loss) if self.loss else None,
            "inputs": _windows_json(self.windows),
        }
        content["sha256"] = _checksum(content)
        return json.dumps(content, indent=1) + "\n"


SHIPPED = Path(__file__).parents[1] / "models" / "int8"


def find(spec: ModelSpec) -> Calibration:
    """Read the calibration of a model: from its folder, else the one that ships for these weights.

    Raises ModelError if there is none, or if the one in the folder cannot be used.
    """
    weights = weights_of(spec)
    if path := _place(spec, weights):
        return read(path, weights)
    raise ModelError(
        f"{spec.id} has no calibration for int8: `senryu quantize {spec.folder}` makes one, and says what it costs."
    )


def is_calibrated(spec: ModelSpec) -> bool:
    """Tell whether there is a calibration of a model, be it one that can be used or not."""
    return _place(spec, weights_of(spec)) is not None


def _place(spec: ModelSpec, weights: Mapping[str, str]) -> Path | None:
    own = spec.folder / FILE
    shipped = (path for path in sorted(SHIPPED.glob("*.json")) if _weights_in(path) == weights)
    return own if own.exists() else next(shipped, None)


def _weights_in(path: Path) -> Any:
    return json.loads(path.read_bytes())["weights"]


def weights_of(spec: ModelSpec) -> Mapping[str, str]:
    """Return the sha256 of the weights that windows are made for, by file."""
    hashes = file_hashes(spec)
    return {name: hashes[name] for name in spec.weight_files}


def read(path: Path, weights: Mapping[str, str]) -> Calibration:
    """Read a calibration. `weights`: the sha256 of the model's own files by name.

    Raises ModelError for a file that is damaged, was changed, or belongs to other weights.
    """
    try:
        content = json.loads(path.read_bytes())
        found = content["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as a calibration: {error!r}. {_MEND}") from None
    if found not in FORMATS:
        known = " and ".join(FORMATS)
        raise ModelError(f"{path}: its format is {str(found)[:50]!a}; this version reads {known}. {_MEND}")
    if content.get("sha256") != _checksum(content):
        raise ModelError(f"{path}: its checksum does not fit: it was changed or cut off. {_MEND}")
    try:
        made_for, model = content["weights"], content["model"]
        calibration = _calibration(path, content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path}: a part is missing, or is not what it must be: {error!r}. {_MEND}"
        ) from None
    if made_for != dict(weights):
        raise ModelError(f"{path}: was made for other weights, of {model!r}, than this model has. {_MEND}")
    return calibration


def _calibration(path: Path, content: Mapping[str, Any]) -> Calibration:
    about = content["calibration"]
    return Calibration(
        model=content["model"],
        weights=content["weights"],
        texts=about["texts"],
        tokens=about["tokens"],
        texts_sha256=about["sha256"],
        windows=_windows(path, content),
        loss=_loss(content["loss"]),
    )


def _loss(given: Mapping[str, Any] | None) -> Loss | None:
    if not given:
        return None
    if not all(type(number) in (int, float) for number in given.values()):
        raise TypeError("the loss is not made of numbers")
    return Loss(**given)


_MEND = "Make it anew with `senryu quantize`."


def _windows_json(windows: Mapping[str, Window]) -> list[dict[str, Any]]:
    by_input: dict[int, tuple[list[str], Window]] = {}
    for name, window in windows.items():
        by_input.setdefault(id(window), ([], window))[0].append(name)
    return [{"layers": names} | _window_json(window) for names, window in by_input.values()]


def _window_json(window: Window) -> dict[str, Any]:
    several = np.flatnonzero(window.copies > 1)
    copies = {str(channel): int(window.copies[channel]) for channel in several}
    numbers = {name: _encode(getattr(window, name)) for name in ("low", "high", "given", "lost")}
    return numbers | ({"copies": copies} if copies else {})


def _windows(path: Path, content: Mapping[str, Any]) -> dict[str, Window]:
    """Return the windows by layer. Raises ModelError for one whose parts do not fit each other."""
    make: Callable[[Any], Window] = _older_window if content["format"] == WITH_MEANS else _window
    windows: dict[str, Window] = {}
    for entry in content["inputs"]:
        try:
            window = make(entry)
            fits = _fits(window)
        except (LookupError, ValueError, TypeError, AttributeError):
            fits = False
        if not fits:
            raise ModelError(
                f"{path}: a window's parts do not fit each other: {entry.get('layers')!a}. {_MEND}"
            )
        windows |= dict.fromkeys(entry["layers"], window)
    return windows


def _window(entry: Mapping[str, Any]) -> Window:
    low, high, given, lost = (_decode(entry[name]) for name in ("low", "high", "given", "lost"))
    copies = np.ones(len(low), np.intp)
    for channel, count in entry.get("copies", {}).items():
        copies[int(channel)] = count
    return Window(low, high, copies, given, lost)


def _older_window(entry: Mapping[str, Any]) -> Window:
    low, high, mean = (_decode(entry[name]) for name in ("low", "high", "mean"))
    return at_mean(low, high, mean)


def _fits(window: Window) -> bool:
    arrays = (window.low, window.high, window.lost, window.given)
    sizes = {len(array) for array in arrays[:3]}
    is_whole = int(window.copies.min()) >= 1 and int(window.copies.sum()) == len(window.given)
    are_numbers = all(bool(np.isfinite(array).all()) for array in arrays)
    return len(sizes) == 1 and is_whole and are_numbers and bool((window.low < window.high).all())


def _encode(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def _decode(text: str) -> NDArray[np.float32]:
    return as_stored(np.frombuffer(base64.b64decode(text), "<f2"))


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({k: v for k, v in content.items() if k != "sha256"})).hexdigest()
