"""``python -m cvqd``."""

import sys

from cvqd.cli import main

if __name__ == "__main__":
    sys.exit(main())
