"""wget2: one connection for one file, 16 threads for many."""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, program_version, write_lines

QUIET = ("wget2", "--no-config", "--quiet", "--no-robots")


def file(work: Work) -> Command:
    trust = () if work.certificate is None else (f"--ca-certificate={work.certificate}",)
    return Command((*QUIET, *trust, f"--output-document={work.path}", work.url))


def files(work: Work) -> Command:
    listed = write_lines(work, "wget2.urls", [f"{work.base}/{name}" for name in work.names])
    where = ("--no-directories", f"--directory-prefix={work.directory}")
    return Command((*QUIET, "--max-threads=16", *where, f"--input-file={listed}"))


RIVALS = (
    Rival(
        "wget2",
        {"file": file, "files": files},
        program_version("wget2"),
        verifies="nothing, not even the length",  # a connection that ends too early is no error to 1.99
        needs=("wget2",),
    ),
)
