"""Networks under the names, and with the signatures, by which users of SB3 know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class View:
    """A network that is called as Stable-Baselines3 calls its own.

    Everything else (`parameters`, `optimizer`, `features_extractor`, hooks) is the network's.

    Args:
        network: The network behind it.
        call: What a call of the view returns.
    """

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        vars(self).update(network=network, _call=call)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name in ("network", "_call"):  # while it is copied
            raise AttributeError(name)
        return getattr(self.network, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.network, name, value)
