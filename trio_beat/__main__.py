"""``python -m trio_beat``: the bundled server, and its two clients."""

import sys

from ._command.serve import main

if __name__ == "__main__":
    sys.exit(main())
