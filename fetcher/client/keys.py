"""An operator's AWS keys where a chain has to be asked for them: in a thread, and not for ever.

botocore asks token services over sockets that block, and runs programs that need not end. Transfers of the same event
loop go on meanwhile. The thread is a daemon: where it never comes back, nobody waits for it, also at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from fetcher.credentials.aws import KeysOf, operator_keys
from fetcher.errors import UsageError
from fetcher.model.secret import AWSKeys

THREAD_NAME = "fetcher-aws-keys"

ASKING_MAX = 4
"""Threads of this process that ask at once."""
PLACE_LOOKS_S = 0.05
"""Between two looks whether one of them has come back."""

_place = threading.Lock()


async def operator_keys_in_time(environ: Mapping[str, str], time_max_s: float) -> KeysOf:
    """What ``operator_keys`` says of ``environ``, to be had without a wait from now on.

    Raises UsageError as that does, and if no keys have come within ``time_max_s``.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[AWSKeys | None] = loop.create_future()

    def tell(keys: AWSKeys | None, error: Exception | None) -> None:
        if told.done():  # too late
            return
        if error is not None:
            told.set_exception(error)
        else:
            told.set_result(keys)

    def ask() -> None:
        keys: AWSKeys | None = None
        failure: Exception | None = None
        try:
            keys = operator_keys(environ)
        except Exception as error:
            failure = error
        try:
            loop.call_soon_threadsafe(tell, keys, failure)
        except RuntimeError:  # the loop is closed by now
            pass

    thread = threading.Thread(target=ask, name=THREAD_NAME, daemon=True)
    try:
        async with asyncio.timeout(time_max_s):
            while not _begin(thread):  # noqa: ASYNC110 — those who ask may be of other loops, or have none any more
                await asyncio.sleep(PLACE_LOOKS_S)
            keys = await told
    except TimeoutError:
        others = "" if thread.ident is not None else f": {ASKING_MAX} earlier calls still ask for theirs"
        raise UsageError(
            f"no AWS keys came within {time_max_s:g} s{others}",
            hint="check what AWS_PROFILE and ~/.aws/config ask for them, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        ) from None
    return lambda environ: keys


def _begin(thread: threading.Thread) -> bool:
    """Start it, if there is a place."""
    with _place:
        if sum(other.name == THREAD_NAME for other in threading.enumerate()) >= ASKING_MAX:
            return False
        thread.start()
        return True
