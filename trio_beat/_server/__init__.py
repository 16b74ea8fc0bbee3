"""The server.

::

    server          serve and Server: the nurseries, from the listeners to the end of the grace time
    endpoints       where it listens: a port, a path, sockets that it is given
    listeners       names and addresses, and the sockets for them
    unix            a socket at a path, and its file
    given           sockets that are open already
    accepting       new sockets from a listener
    peers           one task for each socket; what contains its faults; draining
    pending         a socket whose first request has yet to be read: TCP, TLS
    admission       from a pending socket to a connection, to HTTP, or to a refusal
    service         connections, wherever they come from: this server's sockets, or another server
    gate            whether a peer becomes a connection, and what that is for
    proxies         who the client is where a proxy stands in between
    places          what an address and a user may take, and what is exempt
    limited         a peer that meets one of these limits
    origins         which pages may connect
    consumers       what connections are for: channels of the hub, or the handler
    disconnects     users and sessions that are disconnected, also while they are being admitted
    blocks          names that are refused for a time
    refusals        counted and logged
    limits          what a server holds at most, and its statistics
    parts           what all sockets of a server share
    lifespan        start and end of an ASGI application
    http            HTTP/1.1 by Hypercorn: a connection
    http_protocol   its protocol, stricter
    http_tasks      its applications' tasks
    http_pace       how fast it may go
"""
