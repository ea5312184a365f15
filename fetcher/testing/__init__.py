"""Embedded origins for the tests of programs that use ``fetcher``, and for its own.

Real sockets on the loopback, faults on command. Nothing here is imported by the rest of the package.
"""

from fetcher.testing.contents import Content, Synthetic
from fetcher.testing.faultplan import Exchange, Fault, FaultPlan, Rule
from fetcher.testing.hub import Hub, Quotas, Token, hub_in_thread
from fetcher.testing.market import Market, market_in_thread
from fetcher.testing.records import RequestLog, RequestRecord
from fetcher.testing.registry import Registry, registry_in_thread
from fetcher.testing.s3 import S3, s3_in_thread

__all__ = [
    "S3",
    "Content",
    "Exchange",
    "Fault",
    "FaultPlan",
    "Hub",
    "Market",
    "Quotas",
    "Registry",
    "RequestLog",
    "RequestRecord",
    "Rule",
    "Synthetic",
    "Token",
    "hub_in_thread",
    "market_in_thread",
    "registry_in_thread",
    "s3_in_thread",
]
