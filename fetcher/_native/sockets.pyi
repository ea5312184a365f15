"""Promise of the compiled question about a socket and of its twin (pure_sockets.py)."""

def has_news(descriptor: int) -> bool:
    """Whether something waits to be read, or the other side has hung up, or the socket has failed or is gone; looks and
    does not wait."""
