"""The values that cross borders between stages. No behaviour, no wire names, nothing of ours imported.

EmbedRequest → Ticket → Tokens → Batch → Vectors → Embeddings → EmbedResult
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = "array[int]"  # int32 [n], token ids of one text, special tokens included
Inputs: TypeAlias = (
    tuple[str, ...] | tuple[tuple[int, ...], ...]
)  # texts, or the token ids of each text alone
Vectors: TypeAlias = NDArray[np.float32]  # [B, D]; those that an engine answers have length 1
Codes: TypeAlias = NDArray[Any]  # [B, D] float32 / int8 / uint8, or [B, D/8] for the binary types


class Task(StrEnum):
    """What the vectors are for; chooses the prompt that the model was trained with."""

    SEARCH_DOCUMENT = "search_document"
    SEARCH_QUERY = "search_query"
    CLASSIFICATION = "classification"
    CLUSTERING = "clustering"


class OutputType(StrEnum):
    """How one vector is coded (the contract's bit conventions)."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


class Truncate(StrEnum):
    """Which end of a text that is too long is cut off; NONE refuses it instead."""

    END = "END"
    START = "START"
    NONE = "NONE"


class Precision(StrEnum):
    """The number format that the matrix products run in."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold where a dialect has bounds of its own; None for what the resource says, or none."""

    max_inputs: int | None = None  # None: as many as the resource allows
    max_tokens: int | None = None  # over all inputs, as the model reads them; None: as many as may wait


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What a caller asks for, in no dialect's words. `limits` None: the resource's, those of a text's length too."""

    model: str
    inputs: Inputs
    task: Task = Task.SEARCH_DOCUMENT
    output_types: tuple[OutputType, ...] = (OutputType.FLOAT,)
    dimensions: int | None = None
    truncate: Truncate = Truncate.END
    max_tokens: int | None = None  # of each input, prompt and special tokens not counted; None: all that fit
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """A provisioned model: what a key gives access to, with its limits."""

    id: str
    name: str
    model_id: str
    max_inputs: int
    max_chars: int
    created_at: datetime
    served_names: tuple[str, ...] = ()  # names that it answers to besides its own and its model's
    dimensions: int | None = None  # length of its vectors where a request does not say; None: the model's


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of an API key; never the key itself. `resource_ids` None is a key for every resource."""

    id: str
    digest: bytes
    resource_ids: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None = None
    expires_at: datetime | None = None  # refused from then on; the end of a rotated key's grace too
    requests_per_minute: int | None = None  # None: no limit
    tokens_per_minute: int | None = None
    note: str = ""

    def allows(self, resource_id: str) -> bool:
        """Tell whether the resource is in the key's scope."""
        return self.resource_ids is None or resource_id in self.resource_ids


@dataclass(frozen=True, slots=True)
class Usage:
    """What one key used of one model on one day (UTC)."""

    key_id: str
    model_id: str
    day: date
    requests: int = 0  # answered with vectors
    texts: int = 0
    tokens: int = 0  # the sum of the prompt tokens that its clients were told
    errors: int = 0  # requests of a known key for a known model that were answered with anything else


class Charge(Protocol):
    """What was taken from a limit."""

    def give_back(self) -> None:
        """Undo it, once, if it still counts."""


@dataclass(slots=True)
class Ticket:
    """One request of a key: what it is for, as far as that is known, and what it was charged."""

    key: Key
    model_id: str | None  # None: nothing that the key may use, or not known yet
    texts: int = 0
    prompt_tokens: int = 0
    max_tokens: int | None = None  # that it may be charged with
    charges: dict[str, Charge] = field(default_factory=dict)  # by unit


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it: prompt and special tokens included, already cut to its length."""

    ids: Ids
    truncated: bool = False
    unknown: int = 0
    prompt_length: int = 0  # leading tokens that the model's pooling leaves out: its prompt's


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that run together, laid end to end. Padding is the engine's business."""

    input_ids: NDArray[np.int32]  # [sum(lengths)]
    lengths: NDArray[np.int32]  # [B]
    prompt_lengths: NDArray[np.int32] | None = (
        None  # [B], tokens that the pooling leaves out; None: of no text
    )


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The answer to an `EmbedRequest`, rows in the order of its inputs."""

    model: str
    embeddings: Mapping[OutputType, Codes]
    prompt_tokens: int
    truncated: int
    unknown_tokens: int
    fingerprint: str


@dataclass(slots=True)
class Timings:
    """Seconds that one request spent in each stage, in the order in which the stages ran."""

    stages: dict[str, float] = field(default_factory=dict)
