"""What is called when a connection ends.

It is kept beside the connections, not in them: most are never followed, and cost nothing by it.
"""

from __future__ import annotations

from collections.abc import Callable


class Following:
    """What is called when the connections of a server end."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        #: By the connection. Invariant: only open ones, and only those with something to call.
        self._calls: dict[object, list[Callable[[], object]]] = {}

    def add(self, connection: object, call: Callable[[], object]) -> None:
        """Call something when a connection ends; once.

        Args:
            connection: an open one.
            call: it neither waits nor raises.
        """
        self._calls.setdefault(connection, []).append(call)

    def remove(self, connection: object, call: Callable[[], object]) -> None:
        """Undo one `add`; does nothing where it was called, or there was none."""
        calls = self._calls.get(connection, [])
        if call in calls:
            calls.remove(call)
            if not calls:
                del self._calls[connection]

    def ended(self, connection: object) -> None:
        """A connection has ended: make its calls, in their order."""
        for call in self._calls.pop(connection, ()):
            call()
