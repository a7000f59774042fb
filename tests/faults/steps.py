"""One small life of an archive, for the test that kills it at every step: run under strace.

Arguments: the archive, the file for notes, the nanosecond of its clock, and ``life`` or ``open``.
What was promised is noted in the form of writer.py, after the commit that promises it.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from archivefs.archive import Archive
from archivefs.operations import BeginAttempt, Capture, FinishAttempt, Report
from archivefs.states import Outcome, Status

DAY_NS = 86_400 * 10**9
SMALL = (b"first", b"second", b"third")
LARGE = bytes(range(256)) * 6000


def main() -> None:
    """Capture into two segments, convert, go on to the next day, close; the next open seals a day."""
    root, out = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    clock = [int(sys.argv[3])]

    def capture(archive: Archive, converter: str, name: str, content: bytes) -> str:
        said = {"converter": converter, "name": name, "sha256": hashlib.sha256(content).hexdigest()}
        os.write(out, json.dumps({"what": "try", **said}).encode() + b"\n")
        (receipt,), _ = archive.commit([Capture(converter, name.encode(), content, mtime_ns=1)])
        os.write(out, json.dumps({"what": "ack", **said}).encode() + b"\n")
        return str(receipt.id)

    if sys.argv[4] == "open":
        Archive(root, clock=lambda: clock[0]).close()
        return
    with Archive(root, clock=lambda: clock[0]) as archive:
        capture(archive, "files", "a.csv", SMALL[0])
        first = capture(archive, "ict", "b.csv", SMALL[1])
        capture(archive, "files", "large.bin", LARGE)
        archive.commit([BeginAttempt(first, "capture")])
        report, text = Report("report.json", b'{"ok": true}'), Report("log.txt", b"said nothing")
        done = FinishAttempt(
            first, "ict", 1, Outcome.SUCCESS, Status.SUCCESS, 1, 1, log=text, reports=[report]
        )
        archive.commit([done])
        clock[0] += DAY_NS
        capture(archive, "files", "c.csv", SMALL[2])
    Archive(root, clock=lambda: clock[0]).close()


if __name__ == "__main__":
    main()
