"""A griffe extension: what a package's `__init__.py` imports from its own files is public."""

from __future__ import annotations

from typing import Any

import griffe


class Faces(griffe.Extension):
    """Take `from ebrl.kernels.langevin import MALA as MALA` for a part of `ebrl.kernels`."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Mark what every package of `pkg` hands on."""
        self._mark(pkg)

    def _mark(self, module: griffe.Module) -> None:
        if module.is_init_module:
            module.exports = [
                name
                for name, member in module.members.items()
                if member.is_alias and member.target_path.startswith(f"{module.path}.")
            ]
        for submodule in module.modules.values():
            if not submodule.is_alias:
                self._mark(submodule)
