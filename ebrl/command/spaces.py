"""Spaces for configs, which write a shape as a list."""

from __future__ import annotations

from ebrl import spaces


class Unbounded(spaces.Unbounded):
    """All of R^shape.

    Args:
        shape: Shape of one x: [2] for points in the plane.
    """

    def __init__(self, shape: list[int]):
        super().__init__(*shape)


class Binary(spaces.Binary):
    """Zeros and ones.

    Args:
        shape: Shape of one x.
    """

    def __init__(self, shape: list[int]):
        super().__init__(*shape)
