"""Starts several commands at once and ends when all have: with the first exit code that is not 0."""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> None:
    processes = [subprocess.Popen(arguments, stdout=subprocess.DEVNULL) for arguments in json.loads(sys.argv[1])]
    codes = [process.wait() for process in processes]
    sys.exit(next((abs(code) for code in codes if code != 0), 0))


if __name__ == "__main__":
    main()
