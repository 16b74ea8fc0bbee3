"""A Django project that publishes with django-websocket-redis; it runs as a process of its own."""
