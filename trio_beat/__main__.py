"""``python -m trio_beat``: the bundled server and two clients."""

import sys

from ._command.main import main

if __name__ == "__main__":
    sys.exit(main())
