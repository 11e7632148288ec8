"""A bound on the memory that is allocated while an agent is built from a file."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ebrl.storage import StorageError

MAKERS = {f"aten::{name}" for name in ("empty", "zeros", "ones", "full", "rand", "randn", "eye")}
SPARE = 1 << 22, 1_000  # elements and tensors besides those of the networks


class Bounded(TorchDispatchMode):
    """A context that allows a few times as many tensors and elements as a file holds.

    A file holds every weight of its networks. Without a bound, a hundred bytes of stored arguments
    could ask for any amount of memory and time.

    Args:
        tensors: The tensors in the file.
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
