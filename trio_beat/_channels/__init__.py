"""Channels.

::

    consumer        connects a connection to a hub
    hub             subscribing, publishing, and fan-out
    control         tells all hubs of a backend to disconnect a user or a session
    members         connections, whose subscriptions end with them
    registry        the hub's channels, kept in step with its backend
    gaps            telling subscribers that they may have missed messages
    availability    whether the backend can be used, and how long is waited for it
    subscriptions   a channel and its subscribers
    permissions     what a connection may do: from a target to keys of channels
    keys            the keys of channels, and patterns of them
    grammar         what a connection's URL asks for
"""
