"""One connection.

::

    connection    Connection: what an application does with a connection
    handler       the consumers that have an application's code behind them
    consumer      the contract between a connection and its application side
    life          Life(Holding): the nursery and the reader
    holding       Holding(Beating): holds back a peer that sends too fast
    beating       Beating(Ending): the heartbeat: judges the last beat, sends the next PING
    ending        Ending(Sending): why and how a connection ends
    sending       Sending: what goes to the peer, what waits, the slow policy
    pacing        how fast peers may send
    following     what is called when connections end
    expiry        the ends of identities, one task for all connections
    shared        what all connections of a server share
    inbox         messages that wait for an application

An open connection is one `Life` and its tasks. The engine is one object in five layers, so that a
layer costs no memory. A connection of a hub has nothing beside it; one that an application's code
serves has a `Connection`, too.
"""
