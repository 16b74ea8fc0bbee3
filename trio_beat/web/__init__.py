"""What is not a native WebSocket: pages, the publish API and health, as an ASGI application."""
