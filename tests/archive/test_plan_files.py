"""The lists of plans: who plans at the same time, who is stopped, and a list that is lost."""

import json
import os
import time
from pathlib import Path

import pytest
from archive_parts import Clock, captured, make, some_bytes
from retention_parts import all_is_well, left, tell, work

from archivefs.archive import Archive
from archivefs.errors import RetentionError
from archivefs.jobs.job import Job, get
from archivefs.query import parse
from archivefs.retention import choosing, plans
from archivefs.retention.operations import BeginPurge, Purge
from archivefs.steps import Stepwise

COUNT = 6


@pytest.fixture
def archive(root: Path, clock: Clock) -> Archive:
    archive = make(root, clock)
    for number in range(COUNT):
        captured(archive, some_bytes(number, 2000), b"f%d" % number)
    return archive


def planner(archive: Archive, query: str) -> Stepwise[int]:
    return plans.make(archive, choosing.by_query(archive, parse([query], archive.zone), query), None)


def goes_on(archive: Archive, planning: Stepwise[int]) -> int:
    """The rest of a planning, from what it wants committed next to its number."""
    try:
        wanted = planning.send(None)  # type: ignore[arg-type]
        while True:
            wanted = planning.send(archive.commit(wanted)[0])
    except StopIteration as end:
        number: int = end.value
        return number


def test_two_who_plan_at_the_same_time_get_a_plan_each(archive: Archive) -> None:
    with archive:
        first, second = planner(archive, "name=f0"), planner(archive, "name=f1,f2")
        operations = [*next(first), *next(second)]
        numbers = list[int]()
        for planning, operation in zip((first, second), operations, strict=True):
            with pytest.raises(StopIteration) as end:
                planning.send(archive.commit([operation])[0])
            numbers.append(end.value.value)
        assert numbers == [1, 2]
        for number, count in ((1, 1), (2, 2)):
            assert tell(archive, "retention", "show", f"plan={number}")["entries"] == count
            result = work(archive, tell(archive, "retention", "apply", f"plan={number}")["job"])
            assert (result["purged"], result["kept"]) == (count, 0)
        assert {row.name for row in left(archive)} == {b"f3", b"f4", b"f5"}
    all_is_well(archive.root)


def test_two_plans_in_one_commit_get_a_number_each(archive: Archive) -> None:
    with archive:
        first, second = planner(archive, "name=f0"), planner(archive, "name=f1,f2")
        outcomes, _ = archive.commit([*next(first), *next(second)])
        numbers = list[int]()
        for planning, outcome in zip((first, second), outcomes, strict=True):
            try:
                wanted = planning.send([outcome])
            except StopIteration as end:
                numbers.append(end.value)
            else:
                with pytest.raises(StopIteration) as ended:
                    planning.send(archive.commit(wanted)[0])
                numbers.append(ended.value.value)
        assert sorted(path.name for path in (archive.root / "plans").iterdir()) == [
            f"{number}.jsonl" for number in sorted(numbers)
        ]
        assert len(set(numbers)) == 2
        for number in numbers:
            assert tell(archive, "retention", "show", f"plan={number}")["list"]


def test_a_list_without_an_event_is_never_another_plans_and_goes_in_the_end(archive: Archive) -> None:
    """Its writer was stopped between them."""
    with archive:
        planner(archive, "name=f0").__next__()
        stopped = archive.root / "plans/1.jsonl"
        before = stopped.read_bytes()
        assert goes_on(archive, planner(archive, "name=f1,f2")) == 2
        assert stopped.read_bytes() == before
        with pytest.raises(RetentionError, match="no plan 1"):
            tell(archive, "retention", "apply", "plan=1")
        assert goes_on(archive, planner(archive, "name=f3")) == 3
        os.utime(stopped, (time.time() - plans.STOPPED_SECONDS - 60,) * 2)
        os.utime(archive.root / "plans/2.jsonl", (time.time() - plans.STOPPED_SECONDS - 60,) * 2)
        assert goes_on(archive, planner(archive, "name=f4")) == 4
        assert sorted(path.name for path in stopped.parent.iterdir()) == ["2.jsonl", "3.jsonl", "4.jsonl"]


def test_a_list_that_cannot_be_written_takes_no_number(archive: Archive) -> None:
    with archive:
        (archive.root / "plans").write_bytes(b"no folder")
        with pytest.raises(OSError, match="plans"):
            next(planner(archive, "name=f0"))
        (archive.root / "plans").unlink()
        assert goes_on(archive, planner(archive, "name=f0")) == 1


@pytest.mark.parametrize("how", ["lost", "another"])
def test_a_purge_that_began_and_whose_list_is_lost_ends_with_what_was_purged(
    archive: Archive, how: str, expected_errors: list[str]
) -> None:
    expected_errors.append("plan 1: ")
    with archive:
        plan = tell(archive, "retention", "plan", "name=f0,f1,f2")["plan"]
        listed = list(plans.listed(archive.root, plans.get(archive, plan)))
        first = (plans.purging(listed[0]), plans.rule_of(plans.get(archive, plan), listed[0]))
        archive.commit([BeginPurge(plan)])
        archive.commit([Purge(plan, [first])])
        file = archive.root / f"plans/{plan}.jsonl"
        file.unlink() if how == "lost" else file.write_bytes(b"another\n")
        job = tell(archive, "retention", "apply", f"plan={plan}")["job"]
        result = work(archive, job)
        assert (result["purged"], result["kept"]) == (1, 1)
        (said,) = (Job(archive.root, get(archive, job)).folder / "errors.jsonl").read_text().splitlines()
        assert "1 entries purged, 2 are kept" in json.loads(said)["error"]
        assert archive.alarms.keys() == {f"plan {plan}"}
        row = plans.get(archive, plan)
        assert (row.state, row.purged, row.kept) == ("done", 1, 2)
        assert archive.reader.purges.unfinished() == []
        assert {entry.name for entry in left(archive)} == {b"f1", b"f2", b"f3", b"f4", b"f5"}
    all_is_well(archive.root)


def test_a_plan_whose_list_is_lost_before_it_began_is_refused_as_ever(archive: Archive) -> None:
    with archive:
        plan = tell(archive, "retention", "plan", "name=f0")["plan"]
        (archive.root / f"plans/{plan}.jsonl").unlink()
        with pytest.raises(RetentionError, match="make a new one"):
            tell(archive, "retention", "apply", f"plan={plan}")
        assert len(left(archive)) == COUNT
