"""The random stream from which a policy draws its actions."""

from __future__ import annotations

import torch


class Acting:
    """A policy that draws from the `generator` of its agent.

    A policy that was loaded alone has none: it takes a seed from torch's global stream.
    """

    device: torch.device
    _generator: torch.Generator | None = None

    @property
    def generator(self) -> torch.Generator:
        """The stream of the actions, on the policy's device."""
        if self._generator is None or self._generator.device.type != self.device.type:
            seed = int(torch.randint(2**62, ()))
            self._generator = torch.Generator(self.device).manual_seed(seed)
        return self._generator

    @generator.setter
    def generator(self, generator: torch.Generator) -> None:
        self._generator = generator
