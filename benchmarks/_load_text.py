"""The load, which answers text heartbeats too, as a script in a browser does.

Run as ``python -m benchmarks._load_text``, and asked like `benchmarks._load`.
"""

from __future__ import annotations

import gc
from typing import Any

from ._client import Client
from ._frames import frame_head
from ._load import Generator


class TextGenerator(Generator):
    """Knows a command more."""

    def answer(self, text: str) -> dict[str, Any]:
        """From now on send each message back that equals this one, and count it as a PING."""
        expected = text.encode()
        # A key of zeros, as for a PONG.
        reply = frame_head(1, len(expected)) + b"\0\0\0\0" + expected

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            if data[begin:finish] == expected:
                self._count_beat()
                if not client.mute:
                    self._send(client, reply)

        self._received = received
        return {}


def main() -> None:
    """Serve commands."""
    # As in `benchmarks._load`.
    gc.disable()
    TextGenerator().run()


if __name__ == "__main__":
    main()
