"""The frequencies of rotary position embeddings (RoPE, arXiv:2104.09864), in float32 as the references have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frequencies(theta: float, size: int) -> NDArray[np.float32]:
    """Return θ^(−2i / size) for the pairs i of a head of `size`, [size / 2]."""
    # NOTE: exponents, powers and quotients each rounded to float32, as PyTorch rounds them.
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.float64(theta) ** exponents.astype(np.float64)
    return np.float32(1.0) / powers.astype(np.float32)
