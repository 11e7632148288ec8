"""Observations that are one array, or a dictionary of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def map_arrays(function: Callable[..., Any], *observations: Any) -> Any:
    """Return what a function makes of observations; of dictionaries, key by key.

    Lists and tuples are arrays here, which torch's and JAX's trees would take apart.
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: map_arrays(function, *(one[key] for one in observations)) for key in first}
    return function(*observations)
