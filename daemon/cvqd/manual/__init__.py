"""Manuals: man pages, shell completion and the configuration's JSON Schema.

Nothing here knows a verb, a key or an event: those come from the argument
parser, the configuration's field table and the event catalogue, which the
program itself uses.  The wheel carries these files under ``share``;
``python -m cvqd.manual DIRECTORY`` writes the same.
"""

from __future__ import annotations
