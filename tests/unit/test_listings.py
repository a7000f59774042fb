"""Listings through answers of any size: every name once, nothing that a commit has made untrue."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfuse3 import EntryAttributes

from archivefs.catalog.catalog import Change
from archivefs.fs import listings
from archivefs.fs.listings import Listing, Listings
from archivefs.fs.node import Attributes, Directory, Listed, Node
from archivefs.states import Status


class Folder(Directory):
    """Names numbered from 1; counts how many were asked for."""

    ino = 7
    decided_by = (1, 20_000)

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked = 0

    def attributes(self) -> Attributes:
        return Attributes(self.ino, 0o40555)

    def lookup(self, name: bytes) -> Node | None:
        return None

    def entries(self, after: int) -> Iterator[Listed]:
        for number in range(after + 1, self.count + 1):
            self.asked += 1
            yield number, b"%d" % number, Attributes(1000 + number, 0o100444, number)


def answer(attributes: Attributes) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_size = attributes.size
    return entry


def page(listing: Listing, after: int, size: int) -> list[int]:
    """What one request gets: as many names as fit."""
    got: list[int] = []

    def send(name: bytes, entry: EntryAttributes, cookie: int) -> bool:
        if len(got) == size:
            return False
        assert (int(name), entry.st_size) == (cookie, cookie)
        got.append(cookie)
        return True

    listing.send(after, send)
    return got


def whole(listings: Listings, folder: Folder, sizes: list[int]) -> list[int]:
    """All names, by answers of these sizes in turn."""
    listing, found, turn = listings.open(folder), [0], 0
    while got := page(listing, found[-1], sizes[turn % len(sizes)]):
        found += got
        turn += 1
    return found[1:]


CHANGE = Change(5, "20260213T100000000-a1b2c3", 1, 20_000, None, Status.ARCHIVED)


@given(st.integers(0, 60), st.lists(st.integers(1, 25), min_size=1, max_size=5))
def test_every_name_comes_once_whatever_fits_into_an_answer(count: int, sizes: list[int]) -> None:
    kept, folder = Listings(answer), Folder(count)
    assert whole(kept, folder, sizes) == list(range(1, count + 1))
    assert folder.asked == count, "pages that do not end with the directory are not made twice"
    assert whole(kept, folder, sizes[::-1]) == list(range(1, count + 1))
    assert folder.asked == count, "the second listing was made already"


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=9))
def test_a_reader_that_jumps_gets_what_follows_its_cookie(count: int, jumps: list[tuple[int, int]]) -> None:
    kept, folder = Listings(answer), Folder(count)
    for _ in range(2):
        listing = kept.open(folder)
        for after, size in jumps:
            assert page(listing, after, size) == list(range(after + 1, count + 1))[:size]
        whole(kept, folder, [7])


def test_a_commit_to_the_same_converter_and_day_is_seen_by_the_next_listing() -> None:
    kept, folder = Listings(answer), Folder(10)
    whole(kept, folder, [4])
    open_before = kept.open(folder)
    folder.count = 12
    kept.changed([CHANGE._replace(day=19_999), CHANGE._replace(converter_id=2)])
    assert len(whole(kept, folder, [4])) == 10
    kept.changed([CHANGE])
    assert len(whole(kept, folder, [4])) == 12
    assert len(page(open_before, 0, 100)) == 10, "who has begun goes on with what it began with"


@pytest.mark.parametrize("is_kept", [False, True])
def test_who_has_begun_is_not_told_of_what_is_purged_meanwhile(*, is_kept: bool) -> None:
    kept, folder = Listings(answer), Folder(10)
    if is_kept:
        whole(kept, folder, [4])
    listing = kept.open(folder)
    assert page(listing, 0, 4) == [1, 2, 3, 4]
    folder.count = 6
    kept.changed([CHANGE._replace(before=Status.SUCCESS, after=Status.PURGED)])
    assert page(listing, 4, 100) == [5, 6]
    assert page(listing, 6, 100) == []


def test_what_changes_while_it_is_read_is_not_kept() -> None:
    kept, folder = Listings(answer), Folder(10)
    listing = kept.open(folder)
    page(listing, 0, 4)
    kept.changed([CHANGE])
    page(listing, 4, 100)
    folder.count = 11
    assert len(whole(kept, folder, [4])) == 11


def test_a_directory_that_others_decide_about_is_made_each_time() -> None:
    kept, folder = Listings(answer), Folder(3)
    folder.decided_by = None  # type: ignore[assignment]
    whole(kept, folder, [4])
    whole(kept, folder, [4])
    assert folder.asked == 6


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "KEPT_NAMES", 40)
    kept, folders = Listings(answer), [Folder(10) for _ in range(4)]
    for number, folder in enumerate(folders):
        folder.ino = number
        whole(kept, folder, [4])
    whole(kept, folders[3], [4])
    whole(kept, folders[0], [4])
    assert (folders[3].asked, folders[0].asked) == (10, 20), "the one not used for longest went"
    both = [kept.open(folders[1]), kept.open(folders[1])]
    for listing in both:
        page(listing, 0, 1)
    assert [len(page(listing, 1, 100)) for listing in both] == [9, 9], "who reads beside another reads all"
    large = Folder(50)
    whole(kept, large, [4])
    whole(kept, large, [4])
    assert large.asked == 100
    asked = folders[1].asked
    whole(kept, folders[1], [4])
    assert folders[1].asked == asked, "what is too long to be kept takes nobody's place"
