"""Manuals: man pages, shell completion and the configuration's JSON Schema.

Nothing here knows a verb, a key or an event: those come from the argument
parser, the configuration's field table and the event catalogue, which are what
the program itself goes by.  The wheel carries what is written here under
``share``; ``python -m cvqd.manual DIRECTORY`` writes the same.
"""

from __future__ import annotations
