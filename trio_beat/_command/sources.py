"""Where options come from beside flags: environment variables, and a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from .arguments import ConfigurationError

PREFIX: Final = "TRIO_BEAT_"
#: The same for people, at the end of help.
EPILOG: Final = (
    "Every option is also read from the environment, for example TRIO_BEAT_INTERVAL, and from the "
    "file that --config names, for example interval = 4.0. Flags override environment variables, "
    "and both override the file."
)

#: What Kubernetes sets for a service with the name ``trio-beat``, or one that begins with it
#: (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_OF_KUBERNETES: Final = re.compile(
    r"TRIO_BEAT(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
#: One of these names is also ours; its value tells which is meant.
_PORT_OF_KUBERNETES: Final = re.compile(r"TRIO_BEAT(_\w+)?_PORT=(tcp|udp|sctp)://.*")


def environment() -> dict[str, str]:
    """The environment variables that are meant for the command."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX)
        and not _OF_KUBERNETES.fullmatch(name)
        and not _PORT_OF_KUBERNETES.fullmatch(f"{name}={value}")
    }


class Environment(EnvSettingsSource):
    """Environment variables, without those that Kubernetes sets."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value for name, value in environment().items()}


class ConfigFile(PydanticBaseSettingsSource):
    """The file that ``--config`` or ``TRIO_BEAT_CONFIG`` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"--config: cannot read {str(path)!r}: {exc}") from exc
        return {name.replace("-", "_"): value for name, value in values.items()}
