"""The options that say where the server listens, and how many processes do."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated, Any, Final

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode

#: More is a slip of the finger.
_MOST_WORKERS: Final = 1024
#: A mode in octal (chmod(1)).
_USUAL_MODE: Final = "0660"
_MODE: Final = re.compile(r"(0o?)?[0-7]{3}")


def _cores() -> int:
    """Cores on which this process may run, as far as the system tells."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Listening(BaseSettings):
    """These options; `Settings` has them."""

    host: Annotated[list[str], NoDecode] = Field(
        ["127.0.0.1"],
        description="name or address to listen on; may be given several times, or with commas; "
        "empty: all addresses; beside --uds, --fd and LISTEN_FDS only where it or --port is given",
    )
    port: int = Field(
        8000, ge=0, le=65535, description="TCP port; 0: the system chooses one; see --host"
    )
    uds: str | None = Field(
        None, min_length=1, description="path of a Unix socket to listen on; removed at the end"
    )
    uds_mode: str = Field(
        _USUAL_MODE,
        description="mode of its file, in octal: who may write to it, may connect",
    )
    fd: Annotated[list[Annotated[int, Field(ge=0)]], NoDecode] = Field(
        [],
        description="descriptor of a socket that is open, and bound or listening; may be given "
        "several times, or with commas",
    )
    workers: int = Field(
        1,
        ge=1,
        le=_MOST_WORKERS,
        description="processes that share the port, over a broker (--backend); auto: one for each "
        "core",
    )

    @field_validator("host", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        hosts = [host.strip() for host in value.split(",")] if isinstance(value, str) else value
        if hosts == [] or (isinstance(hosts, list) and "" in hosts[1:]):
            raise ValueError("has an empty part; an empty host stands alone, for all addresses")
        return hosts

    @field_validator("uds")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if sys.platform == "win32":
            raise ValueError("is of no use: Python has no Unix sockets on this system")
        if value.startswith(("@", "\0")):
            text = "has no mode, and would let in every user of the machine; a path may be './@x'"
            raise ValueError(f"is the name of an abstract socket, which {text}")
        if "\0" in value:
            raise ValueError("has a NUL, which no path has")
        return value

    @field_validator("uds_mode", mode="before")
    @classmethod
    def _mode(cls, value: Any, info: ValidationInfo) -> Any:
        # A number of TOML may be meant as octal, or be so.
        if not isinstance(value, str) or not _MODE.fullmatch(value):
            raise ValueError("should be a mode in octal, as text, such as 0660")
        if value != _USUAL_MODE and info.data.get("uds", "") is None:
            raise ValueError("is of no use without --uds")
        return value

    @field_validator("fd", mode="before")
    @classmethod
    def _descriptors(cls, value: Any) -> Any:
        given = value if isinstance(value, list) else [value]
        parts = [part for it in given for part in (it.split(",") if isinstance(it, str) else [it])]
        return [part.strip() if isinstance(part, str) else part for part in parts]

    @field_validator("workers", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return _cores() if value == "auto" else value

    @property
    def mode(self) -> int:
        """The mode of a Unix socket's file."""
        return int(self.uds_mode, 8)

    def listens_on_port(self, *, given: bool) -> bool:
        """Whether there is a TCP port.

        Args:
            given: whether there are sockets that are open already.
        """
        asked = not self.model_fields_set.isdisjoint(("host", "port"))
        return asked or (self.uds is None and not given)
