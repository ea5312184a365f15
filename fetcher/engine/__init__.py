"""The only floor that starts tasks and threads: runs plans over origins, cache and hashing."""
