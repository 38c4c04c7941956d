"""The shells on uvloop: sockets in, answers out."""
