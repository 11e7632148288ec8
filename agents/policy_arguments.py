"""Arguments of an agent that are its policy's, beside `policy_kwargs`."""

from __future__ import annotations

from typing import Any, ClassVar

from .saving import Saving


class PolicyArguments(Saving):
    """An algorithm that hands arguments of its own on to its policy.

    `policy_kwargs` stays the user's: what is saved, and given again when loading.
    """

    given_to_policy: ClassVar[tuple[str, ...]] = ()

    def _check_policy_kwargs(self) -> None:
        """Raise `ValueError` for arguments of the policy that are given to the agent."""
        if taken := [name for name in self.given_to_policy if name in self.policy_kwargs]:
            raise ValueError(
                f"expected policy_kwargs without {taken}: give them to the agent, "
                f"{type(self).__name__}(..., {taken[0]}={self.policy_kwargs[taken[0]]!r})"
            )

    def _setup_model(self) -> None:
        users = self.policy_kwargs
        self.policy_kwargs = {**users, **self._policy_arguments()}
        super()._setup_model()
        self.policy_kwargs = users

    def _policy_arguments(self) -> dict[str, Any]:
        """Return the policy's arguments that are given to the agent."""
        return {name: getattr(self, name) for name in self.given_to_policy}
