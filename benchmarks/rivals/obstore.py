"""obstore: the object_store of Rust under Python; 8 tasks ask for ranges of 16 MiB and write them. Verifies nothing."""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, module_version, python, trusting


def file(work: Work) -> Command:
    return Command(python("obstore_get", work.base, work.names[0], str(work.path)), trusting(work))


RIVALS = (Rival("obstore", {"file": file}, module_version("obstore"), needs=("python:obstore",)),)
