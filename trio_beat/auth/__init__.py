"""Who a peer is: ready-made functions for ``admit`` of `trio_beat.serve`.

::

    jwt           a token that its issuer has signed
    keys          the keys of tokens, and what each is for
    claims        what a token says
    hook          an application that is asked over HTTP
    exchange      one request to it, and its answer
    answer        what its answer says
    pause         whether one that is away is asked again
    credentials   what a request identifies its peer with

Each is called with a `Request` and returns an `Identity`; None where the request has no credential
at all. A credential that is not right raises `Refused`.

The extra ``auth`` installs what they need.
"""

import typing

if typing.TYPE_CHECKING:
    from .hook import Hook
    from .jwt import JWT
else:
    # Each needs a package of the extra, and is loaded by itself.
    def __getattr__(name: str) -> object:
        try:
            match name:
                case "Hook":
                    from .hook import Hook

                    value: object = Hook
                case "JWT":
                    from .jwt import JWT

                    value = JWT
                case _:
                    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        except ModuleNotFoundError as exc:
            package = (exc.name or "").partition(".")[0]
            if package == "trio_beat":
                raise
            text = f"{name} needs {package}: pip install 'trio-beat[auth]' installs it"
            raise ImportError(text, name=exc.name) from exc
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["JWT", "Hook"]
