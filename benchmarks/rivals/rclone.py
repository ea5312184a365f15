"""rclone: many streams for a large file, 16 files at once; over HTTP and from S3.

Checks sizes, and the MD5 where S3 states it: not of what was uploaded in parts.
"""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, program, program_version, trusting, write_lines

CUTOFF = ("--multi-thread-cutoff", "50M")
STREAMS = ("--multi-thread-streams", "8", *CUTOFF)
PARALLEL = ("--transfers", "16", "--checkers", "16")


def _rclone(*arguments: str) -> tuple[str, ...]:
    return (program("rclone"), *arguments)


def file(work: Work) -> Command:
    trust = () if work.certificate is None else ("--ca-cert", str(work.certificate))
    source = f':http,url="{work.base}":{work.names[0]}'
    return Command(_rclone("copyto", *STREAMS, *trust, source, str(work.path)), trusting(work) | {"RCLONE_CONFIG": ""})


def files(work: Work) -> Command:
    listed = write_lines(work, "rclone.names", list(work.names))
    given = ("--http-no-head", "--no-traverse", "--files-from", listed)
    source = f':http,url="{work.base}":'
    return Command(_rclone("copy", *PARALLEL, *given, source, str(work.directory)), {"RCLONE_CONFIG": ""})


def s3(work: Work) -> Command:
    remote = f':s3,provider=Rclone,endpoint="{work.s3}",region=us-east-1:{work.bucket}'
    if work.prefix:
        where = f"{remote}/{work.prefix}"
        arguments: tuple[str, ...] = ("copy", *PARALLEL, "--fast-list", where, str(work.directory / work.prefix))
    else:
        arguments = ("copyto", *STREAMS, f"{remote}/{work.names[0]}", str(work.path))
    return Command(_rclone(*arguments), {"RCLONE_CONFIG": ""})


def resume(work: Work) -> Command:
    """Over four streams; it writes beside the name, with the suffix ``.partial``."""
    host, _, where = work.base.partition("://")[2].partition("/")
    source = (f"--http-url=http://{host}", f":http:{where}/{work.names[0]}")
    return Command(_rclone("copyto", *CUTOFF, *source, str(work.path)), {"RCLONE_CONFIG": ""})


RIVALS = (
    Rival(
        "rclone",
        {"file": file, "files": files, "s3": s3, "resume": resume},
        program_version("rclone", "version"),
        verifies="sizes; MD5 where S3 states it, so not of uploads in parts",
        needs=("rclone",),
    ),
)
