"""Who a peer is: ready-made functions for ``admit`` of `trio_beat.serve`.

::

    jwt           a token that its issuer has signed
    hook          an application that is asked over HTTP
    credentials   what a request identifies its peer with

Each is called with a `Request` and returns an `Identity`; None where the request has no credential
at all. A credential that is not right raises `Refused`.

The extra ``auth`` installs what they need.
"""
