"""The weights that come with the package are files of safetensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ebrl.vision.denoising import denoise
from ebrl.vision.shipped import WEIGHTS, available, card, pretrained


@pytest.mark.parametrize("name", available())
def test_shipped_weights_are_those_that_are_used(name: str) -> None:
    stored = load_file(WEIGHTS / f"{name}.safetensors")
    used = pretrained(name).state_dict()
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert stored.keys() == used.keys()
    assert all(torch.equal(stored[key].float(), value) for key, value in used.items())
    assert card(name)


def test_what_a_caller_does_with_weights_stays_with_the_caller() -> None:
    y = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = denoise(y, 0.1)
    with torch.no_grad():
        for parameter in pretrained("gray").to(torch.bfloat16).parameters():
            parameter.zero_()
    assert torch.equal(denoise(y, 0.1), expected)
