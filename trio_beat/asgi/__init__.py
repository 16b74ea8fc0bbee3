"""An ASGI application whose connections know when they are dead.

::

    making    application
    serving   Application: connections, and the lifespan
    running   what runs while the lifespan lasts
    block     the application side of a connection that an endpoint has
    scopes    what an ASGI scope says of a request
    answers   answers that are no connections

See `application`. It runs under Trio, for example by ``hypercorn --worker-class trio``, alone or
mounted in an application of Starlette, FastAPI, Quart-Trio or Litestar.
"""

from .making import application
from .serving import Application

__all__ = ["Application", "application"]
