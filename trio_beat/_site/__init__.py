"""The pages and the API of the bundled server, an ASGI application on Starlette."""
