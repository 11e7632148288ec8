"""An environment that remembers how its episode came about, and can run it again."""

from __future__ import annotations

import gymnasium as gym


class Replayable(gym.Wrapper):
    """Around the whole environment, inside `Monitor`: `Monitor(Replayable(gym.make(id)))`.

    `make_vec_env(id, wrapper_class=Replayable)` is equally right.
    """
