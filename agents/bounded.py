"""A bound on the memory that building an agent from a file may ask for."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ebrl.storage import StorageError

MAKERS = {f"aten::{name}" for name in ("empty", "zeros", "ones", "full", "rand", "randn", "eye")}
SPARE = 1 << 22, 1_000  # elements and tensors beside the networks'


class Bounded(TorchDispatchMode):
    """Within it, no more tensors are made than a few times those of a file.

    An agent's file holds each weight of its networks, and what is larger than the file is none of
    its networks: some hundred bytes of arguments could ask for any amount of memory and time.

    Args:
        tensors: Those in the file.
    """

    def __init__(self, tensors: Collection[Tensor]) -> None:
        super().__init__()
        self.elements = 8 * sum(tensor.numel() for tensor in tensors) + SPARE[0]
        self.tensors = 8 * len(tensors) + SPARE[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.name in MAKERS:
            size = args[0] if isinstance(args[0], list | tuple) else args[:2]
            self.elements -= math.prod(one for one in size if isinstance(one, int))
            self.tensors -= 1
            if self.elements < 0 or self.tensors < 0:
                raise StorageError(
                    "expected networks of the size of the weights in the file, got arguments "
                    "that ask for much more"
                )
        return func(*args, **(kwargs or {}))
