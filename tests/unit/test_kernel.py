"""What the kernel is known to know: any entry of which it was told a file or directory, and no other."""

import random

from archivefs.fs import inodes
from archivefs.fs.inodes import Kind, Place, Slot
from archivefs.fs.kernel import Known

NUMBERS = [1, 7, 8, 9, 1000, 999_999, 1_000_000]


def test_an_entry_is_known_by_any_of_its_files_and_directories() -> None:
    for ino_of in (
        lambda n: inodes.entry_part(Kind.ENTRY, n, 0, inodes.BY_ID_VIEW),
        lambda n: inodes.entry_part(Kind.ATTEMPTS, n, 0, 3),
        lambda n: inodes.entry_part(Kind.ATTEMPT, n, inodes.MAX_ATTEMPT, 3),
        lambda n: inodes.entry_part(Kind.FILE, n, 0, Slot.SOURCE),
        lambda n: inodes.entry_part(Kind.FILE, n, inodes.MAX_ATTEMPT, Slot.REPORT + inodes.MAX_REPORT),
        lambda n: inodes.member(n, 1),
        lambda n: inodes.member(n, (1 << 28) - 1),
    ):
        for order in (NUMBERS, NUMBERS[::-1], random.Random(1).sample(NUMBERS, len(NUMBERS))):
            known = Known()
            for told, n in enumerate(order):
                assert n not in known
                known.told(ino_of(n))
                assert [each for each in order if each in known] == order[: told + 1]
                assert n + 1 not in known or n + 1 in order


def test_what_is_of_no_entry_makes_none_known() -> None:
    known = Known()
    for ino in (
        inodes.Fixed.ROOT,
        inodes.job_ino(7, 1),
        inodes.query(3),
        inodes.level(Place(1, 3, 5, 20_000, 4)),
        inodes.inbox(1),
        inodes.inbox(123_456_789),
    ):
        known.told(ino)
    assert not any(n in known for n in range(1, 100_000))
