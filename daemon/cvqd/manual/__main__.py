"""``python -m cvqd.manual DIRECTORY``: writes the manuals as they are installed below a prefix."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvqd.manual.files import write

parser = argparse.ArgumentParser(
    prog="python -m cvqd.manual",
    description="Write man pages, shell completions and the configuration's JSON Schema.",
)
parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="prefix, such as /usr/local")
write(parser.parse_args().directory)
