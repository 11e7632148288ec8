"""Arguments of an agent that it passes to its policy, besides `policy_kwargs`."""

from __future__ import annotations

from typing import Any, ClassVar

from .saving import Saving


class PolicyArguments(Saving):
    """An algorithm that passes the arguments in `given_to_policy` to its policy."""

    given_to_policy: ClassVar[tuple[str, ...]] = ()

    def _check_policy_kwargs(self) -> None:
        """Raise `ValueError` for `policy_kwargs` that should be arguments of the agent."""
        if taken := [name for name in self.given_to_policy if name in self.policy_kwargs]:
            raise ValueError(
                f"expected policy_kwargs without {taken}: give them to the agent, "
                f"{type(self).__name__}(..., {taken[0]}={self.policy_kwargs[taken[0]]!r})"
            )

    def _setup_model(self) -> None:
        # Stable-Baselines3 builds the policy within its own `_setup_model`, from `policy_kwargs`
        # alone, and offers no hook for others. Afterwards `policy_kwargs` are the user's again, to
        # be saved, and given when loading.
        users = self.policy_kwargs
        self.policy_kwargs = {**users, **self._policy_arguments()}
        super()._setup_model()
        self.policy_kwargs = users

    def _policy_arguments(self) -> dict[str, Any]:
        """Return the agent's arguments for its policy."""
        return {name: getattr(self, name) for name in self.given_to_policy}
