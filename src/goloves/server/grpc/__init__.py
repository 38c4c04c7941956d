"""The gRPC data plane.

`methods` says what a service is made of and can be used for any; `call` is one call, `connection` one connection,
`shared` what all connections of a node share. `ids`, `health` and `reflection` are the services that a node has.
"""
