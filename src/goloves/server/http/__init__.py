"""The HTTP data plane.

`protocol` is one connection, `shared` what all connections of a node share, `routes` what can be asked for, `draws`
what draws ids, `answers` how answers and errors look, `render` how many ids become bytes.
"""
