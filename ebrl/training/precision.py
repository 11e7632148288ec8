"""In which precision a device multiplies matrices fastest."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def fastest_precision(device: torch.device) -> Precision:
    """Return the precision in which the device multiplies matrices fastest.

    A processor without bfloat16 emulates it, ten to twenty times slower than float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"
