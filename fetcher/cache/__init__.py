"""The cache: local disk only. Synchronous, called from worker threads and from the hit path; knows no network, no loop.

``store.Cache`` is the one object that other floors hold; docs/FORMAT.md is the authority on every byte that is written.
"""
