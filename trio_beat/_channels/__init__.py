"""Channels.

::

    hub             subscriptions and fan-out
    subscriptions   a channel, its subscribers and its last message
    permissions     what a connection may do: from a target to keys of channels
    grammar         what a connection's URL asks for
"""
