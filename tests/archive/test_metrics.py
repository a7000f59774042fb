"""What Prometheus reads: parsed by its client, equal to what the archive holds, never counting back."""

from pathlib import Path

from archive_parts import (
    NOON_MS,
    Clock,
    captured,
    catalog_rows,
    commit,
    converted,
    finish,
    make,
    run_child,
)
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from archivefs import metrics, rebuilding
from archivefs.archive import Archive
from archivefs.events import DeliveryAttempted
from archivefs.operations import BeginAttempt, Note
from archivefs.states import Outcome, Submission

Families = dict[str, Metric]


def families(archive: Archive, cache: metrics.Cache | None = None) -> Families:
    """All metric families by the name that a scrape gives them."""
    found = list(text_string_to_metric_families(metrics.text(archive, cache).decode()))
    assert len({each.name for each in found}) == len(found), "a family is told in one piece"
    assert all(each.documentation and each.type in ("counter", "gauge") for each in found)
    return {each.name + ("_total" if each.type == "counter" else ""): each for each in found}


def value(found: Families, name: str, **labels: str) -> float:
    """The value of the one sample with these labels."""
    (sample,) = [each for each in found[f"archivefs_{name}"].samples if each.labels == labels]
    return float(sample.value)


def test_the_numbers_are_those_of_the_archive(archive: Archive) -> None:
    first = captured(archive, b"12345", b"a.csv", "ict")
    captured(archive, b"123", b"b.txt", "files")
    second = captured(archive, b"1", b"c.csv", "ict")
    converted(archive, first.id)
    (number,) = commit(archive, BeginAttempt(second.id, "capture"))
    commit(archive, finish(second.id, number, Outcome.FAILED, error="no"))
    found = families(archive)
    assert value(found, "captures_total", converter="ict") == 2
    assert value(found, "captured_bytes_total", converter="ict") == 6
    assert value(found, "captures_total", converter="files") == 1
    assert value(found, "conversions_total", converter="ict", outcome="success") == 1
    assert value(found, "conversions_total", converter="ict", outcome="failed") == 1
    assert value(found, "conversion_seconds_total", converter="ict", outcome="failed") == 0.005
    assert value(found, "entries", converter="ict", status="success") == 1
    assert value(found, "entries", converter="files", status="archived") == 1
    assert value(found, "source_bytes", converter="ict") == 6
    assert value(found, "stored_bytes", converter="ict") > 6
    assert value(found, "journal_lines_total") == archive.reader.changed_seq()
    assert value(found, "healthy") == 1
    assert value(found, "alarms") == 0
    assert value(found, "disk_reserve_bytes") == 0
    assert 0 < value(found, "disk_free_bytes") < value(found, "disk_size_bytes")
    assert value(found, "last_verified_timestamp_seconds") == 0
    assert "archivefs_process_open_fds" not in found, "of the process that prints them nobody wants to know"
    assert "archivefs_writable" not in found


WHILE_IT_LOADS = """
import sys
import threading
from pathlib import Path
from archivefs import metrics
from archivefs.archive import Archive

sys.setswitchinterval(1e-6)
both = threading.Barrier(2)

def load():
    both.wait()
    metrics.load()

with Archive(Path(sys.argv[1])) as archive:
    loading = threading.Thread(target=load)
    loading.start()
    both.wait()
    assert b"archivefs_captures_total" in metrics.text(archive)
    loading.join()
"""


def test_they_are_told_while_what_tells_them_is_loaded(root: Path) -> None:
    with make(root, Clock()) as archive:
        captured(archive, b"1", b"a.csv", "ict")
    done = run_child(WHILE_IT_LOADS, root)
    assert done.returncode == 0, done.stderr


def test_of_a_mount_the_cache_and_the_process_are_told(archive: Archive) -> None:
    found = families(archive, metrics.Cache(5, 10))
    assert value(found, "frame_cache_bytes") == 5
    assert value(found, "frame_cache_limit_bytes") == 10
    assert value(found, "writable") == 1
    assert value(found, "process_open_fds") > 0
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert not [name for name in found if not name.startswith("archivefs_")]


def test_alarms_are_told_by_what_they_are_about_whatever_that_is(archive: Archive) -> None:
    archive.alarms['content/a"b\\c\nd'] = "broken"
    found = families(archive)
    assert value(found, "healthy") == 0
    assert value(found, "alarms") == 1
    assert value(found, "alarm", about='content/a"b\\c\nd') == 1


def test_deliveries_are_counted_by_what_the_report_became(archive: Archive) -> None:
    receipt = captured(archive, b"1", b"a.csv", "ict")
    for state in (Submission.QUEUED, Submission.QUEUED, Submission.SENT):
        event = DeliveryAttempted(
            id=receipt.id, attempt=1, ordinal=1, state=state, started_ms=NOON_MS, duration_ms=250
        )
        commit(archive, Note(event))
    found = families(archive)
    assert value(found, "deliveries_total", converter="ict", state="queued") == 2
    assert value(found, "deliveries_total", converter="ict", state="sent") == 1
    assert value(found, "delivery_seconds_total", converter="ict", state="queued") == 0.5


def test_counters_go_on_after_a_remount_and_come_back_with_a_rebuild(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        converted(archive, captured(archive, b"1", b"a.csv", "ict").id)
    with Archive(root, clock=clock) as archive:
        converted(archive, captured(archive, b"22", b"b.csv", "ict").id)
        found = families(archive)
    assert value(found, "captures_total", converter="ict") == 2
    assert value(found, "conversions_total", converter="ict", outcome="success") == 2
    kept = catalog_rows(root)["activity"]
    rebuilding.rebuild(root)
    assert catalog_rows(root)["activity"] == kept
    assert kept
