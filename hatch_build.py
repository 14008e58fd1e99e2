"""The wheel carries the front-end packages of the pages: they are brought in before it is built (decision 85)."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    from types import ModuleType


class FrontendHook(BuildHookInterface[Any]):
    """Also for editable installs, so that a checkout has what the wheel has."""

    def dependencies(self) -> list[str]:
        """Node from PyPI, on a machine without."""
        return [] if shutil.which("npm") else [self._script().NODE_PACKAGE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        script = self._script()
        script.bring(Path(self.root), with_tests=version == "editable")
        # They are in no commit, and what git ignores would be left out.
        build_data["artifacts"].append("/cloud/bmsota_cloud/pages/static/vendor")

    def _script(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("frontend", Path(self.root) / "scripts/frontend.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
