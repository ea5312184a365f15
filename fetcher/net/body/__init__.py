"""The hot path of bodies: HTTP/1.1 from the socket into the caller's own memory. See ``transport``."""
