"""Group commit for trio: many captures cost few syncs, and each caller gets what its own operation made."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from archive_parts import capture, entry, every_entry, everything_is_readable, some_bytes, source

from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.committer import GROUP, Committer
from archivefs.config import Config
from archivefs.errors import ArchiveError, UnknownEntryError
from archivefs.operations import Touch
from archivefs.transaction import Operation, Transaction


class Held(Operation[str]):
    """Keeps the committing thread until it is let go; tells when it has begun."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.go = threading.Event()
        self.token = trio.lowlevel.current_trio_token()
        self.closed = False

    def run(self, txn: Transaction) -> str:
        """Waits, in the committing thread."""
        self.token.run_sync_soon(self.begun.set)
        assert self.go.wait(20)
        return "let go"

    def close(self) -> None:
        """Noted."""
        self.closed = True


class Broken(Operation[None]):
    """Fails in one of its two steps."""

    def __init__(self, step: str, error: Exception) -> None:
        self.step = step
        self.error = error

    def prepare(self, config: Config) -> None:
        """The first step."""
        if self.step == "prepare":
            raise self.error

    def run(self, txn: Transaction) -> None:
        """The second."""
        raise self.error


def commits(root: Path) -> int:
    """How many groups of captures reached the journal: each has its own time."""
    (file,) = (root / "journal").glob("*/*/*.jsonl")
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    return len({line["at"] for line in lines if line["kind"] == "captured"})


async def test_many_captures_share_few_commits(tmp_path: Path) -> None:
    """With the real clock: the captures of one group have one time in the journal."""
    contents = [some_bytes(n, 50) for n in range(300)]
    ids: dict[int, str] = {}

    async def submit(committer: Committer, number: int) -> None:
        ids[number] = (await committer.submit(capture(contents[number]))).id

    Archive.create(tmp_path / "real")
    with Archive(tmp_path / "real") as archive:
        committer = Committer(archive)
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(submit, committer, number)
            await trio.testing.wait_all_tasks_blocked()
            committer.close()
            await committer.run()
        assert {number: source(archive, id_) for number, id_ in ids.items()} == dict(enumerate(contents))
        assert len(set(ids.values())) == 300
        assert commits(archive.root) == -(-300 // GROUP)


async def test_what_comes_while_a_group_is_on_its_way_is_the_next_group(archive: Archive, root: Path) -> None:
    committer, held = Committer(archive), Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        nursery.start_soon(committer.submit, held)
        await held.begun.wait()
        for number in range(50):
            nursery.start_soon(committer.submit, capture(b"%d" % number))
        await trio.testing.wait_all_tasks_blocked()
        assert every_entry(archive) == []
        held.go.set()
        committer.close()
    assert len(every_entry(archive)) == 50
    assert commits(root) == 1


@pytest.mark.parametrize("step", ["prepare", "run"])
@pytest.mark.parametrize("error", [ArchiveError("no"), OSError(5, "no"), ValueError("a bug")])
async def test_one_failing_operation_fails_only_its_own_caller(
    archive: Archive, expected_errors: list[str], step: str, error: Exception
) -> None:
    expected_errors.append("a Broken failed")
    committer, made, failed = Committer(archive), [], []

    async def submit(operation: Operation[object]) -> None:
        try:
            made.append(await committer.submit(operation))
        except Exception as caught:
            failed.append(caught)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(submit, capture(b"%d" % number))
        nursery.start_soon(submit, Broken(step, error))
        await trio.testing.wait_all_tasks_blocked()
        committer.close()
        nursery.start_soon(committer.run)
    assert failed == [error]
    assert len(made) == len(every_entry(archive)) == 5


async def test_the_caller_meets_the_error_of_its_operation(archive: Archive) -> None:
    committer = Committer(archive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        with pytest.raises(UnknownEntryError, match="no entry with id"):
            await committer.submit(Touch("20200101T000000000-abcdef", 0, 0, 0, 0))
        committer.close()


async def test_a_caller_that_is_cancelled_has_its_operation_committed_all_the_same(archive: Archive) -> None:
    committer, held = Committer(archive), Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        nursery.start_soon(committer.submit, held)
        await held.begun.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await committer.submit(capture(b"handed in"))
        assert scope.cancelled_caught
        held.go.set()
        committer.close()
    (row,) = every_entry(archive)
    assert source(archive, row.id) == b"handed in"


async def test_a_group_on_its_way_is_finished_when_everything_is_cancelled(archive: Archive) -> None:
    committer, held = Committer(archive), Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.submit, held)
        nursery.start_soon(committer.submit, capture(b"in the same group"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(committer.run)
        await held.begun.wait()
        nursery.cancel_scope.cancel()
        held.go.set()
    assert held.closed
    assert len(every_entry(archive)) == 1


async def test_close_drains_what_was_handed_in(archive: Archive) -> None:
    committer = Committer(archive)
    async with trio.open_nursery() as nursery:
        for number in range(3 * GROUP):
            nursery.start_soon(committer.submit, capture(b"%d" % number))
        await trio.testing.wait_all_tasks_blocked()
        committer.close()
        await committer.run()
    assert len(every_entry(archive)) == 3 * GROUP
    everything_is_readable(archive)


async def test_nothing_is_taken_after_close(archive: Archive) -> None:
    committer = Committer(archive)
    committer.close()
    await committer.run()
    with pytest.raises((ArchiveError, trio.ClosedResourceError, trio.BrokenResourceError)):
        await committer.submit(capture(b"too late"))
    assert every_entry(archive) == []


async def test_listeners_hear_of_a_change_before_its_caller_goes_on(
    archive: Archive, expected_errors: list[str]
) -> None:
    expected_errors.append("a listener failed after a commit")
    committer = Committer(archive)
    heard: list[str] = []

    def listen(changes: Sequence[Change]) -> None:
        trio.lowlevel.current_task()
        heard.extend(change.id for change in changes)

    def fail(changes: Sequence[Change]) -> None:
        raise ValueError("a listener with a bug")

    committer.on_change(fail)
    committer.on_change(listen)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        receipt = await committer.submit(capture(b"1"))
        assert heard == [receipt.id]
        await committer.submit(Touch(receipt.id, 5, 0, 0, 0))
        assert heard == [receipt.id] * 2
        committer.close()


async def test_readers_are_not_held_up_by_a_commit(archive: Archive) -> None:
    committer, held = Committer(archive), Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        first = await committer.submit(capture(b"first"))
        nursery.start_soon(committer.submit, held)
        await held.begun.wait()
        assert source(archive, first.id) == b"first"
        assert entry(archive, first.id).size == 5
        held.go.set()
        committer.close()


async def test_operations_are_closed_whether_they_succeed_or_fail(archive: Archive) -> None:
    committer, held = Committer(archive), Held()
    held.go.set()
    broken = Held()
    broken.run = Broken("run", ArchiveError("no")).run  # type: ignore[assignment, method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        assert await committer.submit(held) == "let go"
        with pytest.raises(ArchiveError, match="no"):
            await committer.submit(broken)
        committer.close()
    assert (held.closed, broken.closed) == (True, True)
