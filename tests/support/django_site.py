"""A site in Django with sessions and users, that has a view of the documentation.

It is run as a process of its own, with a directory for its database and the file of the view; it
prints its port. Bob logs in at /login.
"""

from __future__ import annotations

import contextlib
import runpy
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server


class Site(NamedTuple):
    """A running site in Django, where bob has logged in."""

    url: str
    cookie: str
    session: str


@contextlib.contextmanager
def running_site(directory: Path, view: str) -> Iterator[Site]:
    """Run a site that has a view at /hook, until the context ends."""
    file = directory / "view.py"
    file.write_text(view)
    command = [sys.executable, "-m", "tests.support.django_site", str(directory), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            headers = {"Host": "site.example", "X-Forwarded-Proto": "https"}
            login = urllib.request.Request(f"{url}/login", headers=headers)
            with urllib.request.urlopen(login, timeout=60) as response:
                cookie = response.headers["Set-Cookie"].partition(";")[0]
                session = response.read().decode()
            yield Site(f"{url}/hook", cookie, session)
        finally:
            process.kill()


class _Silent(WSGIRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


def main(directory: Path, view: Path) -> None:
    """Serve until the process is killed."""
    import django  # type: ignore[import-untyped]
    from django.conf import settings  # type: ignore[import-untyped]

    settings.configure(
        SECRET_KEY="of no use",
        ALLOWED_HOSTS=["site.example", "localhost"],
        SECURE_SSL_REDIRECT=True,
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
        USE_TZ=True,
        ROOT_URLCONF=__name__,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(directory / "site.sqlite3"),
            }
        },
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
        ],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        LOGGING_CONFIG=None,
    )
    django.setup()

    # They need the set-up.
    from django.contrib.auth import login  # type: ignore[import-untyped]
    from django.contrib.auth.models import Group, User  # type: ignore[import-untyped]
    from django.core.management import call_command  # type: ignore[import-untyped]
    from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
    from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
    from django.urls import path  # type: ignore[import-untyped]

    call_command("migrate", verbosity=0)
    bob = User.objects.create(username="bob")
    bob.groups.add(Group.objects.create(name="editors"))

    def log_in(request: HttpRequest) -> HttpResponse:
        login(request, bob)
        request.session["ws4redis:memberof"] = ["editors"]  # as ws4redis does it
        return HttpResponse(request.session.session_key)

    urlpatterns.append(path("login", log_in))
    urlpatterns.append(path("hook", runpy.run_path(str(view))["hook"]))
    with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=_Silent) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


urlpatterns: list[object] = []

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
