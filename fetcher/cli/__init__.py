"""The command line: a thin face. Arguments in, calls of ``fetcher.client``, lines out; no second logic.

stdout carries data, stderr carries talk. What a command does not need it does not import: ``--help`` and a hit load no
event loop.
"""
