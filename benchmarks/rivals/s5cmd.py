"""s5cmd: the S3 client that says of itself that it is the fastest. Checks nothing that it downloads."""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, program, program_version

ANONYMOUS = ("--no-sign-request", "--log", "error")


def s3(work: Work, verb: str = "cp") -> Command:
    source = f"s3://{work.bucket}/"
    if work.prefix:
        what: tuple[str, ...] = (verb, f"{source}{work.prefix}/*", f"{work.directory / work.prefix}/")
    else:
        what = ("cp", "-c", "8", "-p", "16", f"{source}{work.names[0]}", str(work.path))
    arguments = (program("s5cmd"), *ANONYMOUS, "--endpoint-url", work.s3, "--numworkers", "16", *what)
    return Command(arguments, {"AWS_REGION": "us-east-1"})


def sync(work: Work) -> Command:
    """Asks for what is new only."""
    return s3(work, "sync")


RIVALS = tuple(
    Rival(name, {"s3": way}, program_version("s5cmd", "version"), needs=("s5cmd",))
    for name, way in (("s5cmd", s3), ("s5cmd sync", sync))
)
