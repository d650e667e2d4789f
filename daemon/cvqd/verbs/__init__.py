"""One module for each verb: its arguments (``add``) and what it does.

A verb imports what it needs only when it runs, so that the short ones stay
fast: only ``run``, ``probe`` and ``demo`` load the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 -- argparse gives it no other name
