"""Build hook: the wheel carries the manuals as the code of this very tree has them.

Hatchling calls it for every wheel, also for that of an editable installation.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualsHook(BuildHookInterface):
    """Writes the manuals to a folder that lives as long as the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 -- the interface's
        """Add the manuals below the wheel's ``share``."""
        sys.path.insert(0, str(Path(self.root) / "daemon"))
        from cvqd.manual.files import write  # noqa: PLC0415 -- it is found only now

        self._folder = tempfile.TemporaryDirectory(prefix="cvqd-manuals-")
        folder = Path(self._folder.name)
        build_data["shared_data"] |= {str(folder / name): name for name in write(folder)}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what the wheel has now."""
        self._folder.cleanup()
