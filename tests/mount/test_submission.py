"""Reports on their way to real servers, folders and programs that fail, hang, answer nonsense, come back."""

import itertools
import json
import os
import ssl
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from mount_parts import Entry, Make, Mounted, archivefs, config, converter, names_in, run
from receiver_parts import Received, Reply, free_port, report_server, taken
from submission_parts import alarms, listed, numbers, sending, submission, submit, wait_for_state

from archivefs import reports
from archivefs.fs.entry import RECENT_SECONDS
from archivefs.submit.outbox import UNRECORDED


def test_a_server_with_a_certificate_of_the_house_is_trusted_where_that_is_said(
    mounted: Make, tmp_path: Path
) -> None:
    house, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    house.issue_cert("127.0.0.1").configure_cert(context)
    house.cert_pem.write_to_path(str(tmp_path / "house.pem"))
    with report_server(tls=context) as server:
        trusting = sending("trusting", server, ca_file=str(tmp_path / "house.pem"))
        archive = mounted(config(trusting, sending("blind", server)))
        archive.drop("trusting", "a.csv", b"serial 1")
        archive.drop("blind", "b.csv", b"serial 2")
        sent = wait_for_state(archive, "a.csv", "sent")
        archive.wait_for_status("b.csv", "success")
        archive.wait_for("a delivery that failed", lambda: submission(archive, "b.csv")["deliveries"])
        waiting = submission(archive, "b.csv")
        assert waiting["state"] == "queued"
        assert "certificate verify failed" in waiting["deliveries"][0]["error"]
        assert server.ids == [sent["report_id"]]


def test_a_report_is_posted_with_an_id_and_the_answer_is_noted(mounted: Make) -> None:
    with report_server() as server:
        archive = mounted(config(sending("wats", server)))
        archive.drop("wats", "a.csv", b"serial 1")
        said = wait_for_state(archive, "a.csv", "sent")
        entry = archive.only("a.csv")
        made = reports.make_id(entry.sha256, "wats", 1)
        assert said["report_id"] == made
        assert [each["answer_id"] for each in said["deliveries"]] == ["server-1"]
        assert said["deliveries"][0]["http_status"] == 200
        (received,) = server.received
        assert received.report == {"id": made, **archive.report(entry)}
        assert received.headers["Content-Type"] == "application/json"
        assert received.headers["Idempotency-Key"] == made
        assert numbers(archive) == {
            "queued": 0, "sent": 1, "refused": 0, "dropped": 0, "converters": {"wats": {"sent": 1}}
        }  # fmt: skip
        assert alarms(archive) == {}


def test_every_report_of_an_attempt_is_sent_in_their_order(mounted: Make) -> None:
    with report_server() as server:
        archive = mounted(config(sending("wats", server, "python:good:Several")))
        for number in range(5):
            archive.drop("wats", f"{number}.csv", b"%d" % number)
            archive.wait_for_status(f"{number}.csv", "success")
        archive.wait_for("all reports", lambda: len(server.received) == 15)
        expected = [
            reports.make_id(archive.only(f"{number}.csv").sha256, "wats", ordinal)
            for number in range(5)
            for ordinal in (1, 2, 3)
        ]
        assert server.ids == expected
        assert [each.report["number"] for each in server.received] == [1, 2, 3] * 5


def flaky(*replies: Reply) -> Any:  # noqa: ANN401  a Decide
    """These answers first, and then every report is taken."""

    def decide(number: int, received: Received) -> Reply:
        return replies[number - 1] if number <= len(replies) else taken(number, received)

    return decide


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(500, b"out of\nmemory"), "HTTP 500: out of memory"),
        (Reply(503), "HTTP 503: {}"),
        (Reply(429), "HTTP 429"),
        (Reply(408), "HTTP 408"),
        (Reply(425), "HTTP 425"),
        (Reply(401), "HTTP 401"),
        (Reply(403, b"token expired"), "HTTP 403: token expired"),
        (Reply(302, headers={"Location": "/elsewhere"}), "redirects are not followed"),
        (Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n"), "RemoteProtocolError"),
        (Reply(raw=b"\0" * 100), "RemoteProtocolError"),
        (Reply(hang=True), "no answer within 0.3 seconds"),
    ],
    ids=lambda value: f"{value.status}{value.raw[:4]!r}{value.hang}" if isinstance(value, Reply) else "",
)
def test_what_may_be_mended_is_tried_again_and_holds_back_those_behind_it(
    mounted: Make, reply: Reply, told: str
) -> None:
    with report_server(flaky(reply, reply)) as server:
        archive = mounted(config(sending("wats", server, timeout_seconds=0.3)))
        for number in range(3):
            archive.drop("wats", f"{number}.csv", b"%d" % number)
            archive.wait_for_status(f"{number}.csv", "success")
        archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 3)
        first, second, third = (
            reports.make_id(archive.only(f"{number}.csv").sha256, "wats", 1) for number in range(3)
        )
        assert server.ids == [first, first, first, second, third]
        deliveries = submission(archive, "0.csv")["deliveries"]
        assert [each["state"] for each in deliveries] == ["queued", "queued", "sent"]
        assert told in deliveries[0]["error"]
        assert "error" not in deliveries[2]


def test_a_listing_follows_what_becomes_of_a_report_and_why_tells_it(mounted: Make) -> None:
    with report_server(lambda number, received: Reply(503)) as server:
        archive = mounted(config(sending("wats", server)))
        archive.drop("wats", "a.csv", b"a")
        row = archive.wait_for_status("a.csv", "success")
        archive.wait_for("a first try", lambda: "deliveries" in submission(archive, "a.csv"))
        folder = archive.entry_dir(row)
        for _ in range(2):  # the second is kept
            assert "entry.json" in shown(folder)
        facts = json.loads(archivefs("why", row.id, "--json", "--archive", archive.root).stdout)
        assert facts["next"] == "1 of its reports to be delivered"
        server.decide = taken
        wait_for_state(archive, "a.csv", "sent")
        sizes = {name: int(size) for size, name in map(str.split, shown(folder).splitlines())}
        assert sizes["entry.json"] == len((folder / "entry.json").read_bytes())
    text = archivefs("why", row.id, "--archive", archive.root).stdout
    assert "report.json sent" in text
    assert "nothing: it is kept" in text


def test_what_is_known_of_an_attempt_is_read_whole_while_its_reports_are_delivered(mounted: Make) -> None:
    with report_server() as server:
        archive = mounted(config(sending("wats", server)))
        for number in range(20):
            archive.drop("wats", f"{number}.csv", b"%d" % number)
            row = archive.wait_for_status(f"{number}.csv", "success")

            def is_sent(row: Entry = row) -> bool:
                known = archive.facts(row)["attempts"][0], archive.attempt(row)
                return all(each["reports"][0]["submission"]["state"] == "sent" for each in known)

            archive.wait_for("a report that is known to be sent", is_sent)


def test_what_is_known_of_an_attempt_follows_a_decision_long_after(mounted: Make) -> None:
    with report_server(lambda number, received: Reply(422)) as server:
        archive = mounted(config(sending("wats", server)))
        archive.drop("wats", "a.csv", b"a")
        wait_for_state(archive, "a.csv", "refused")
        row = archive.only("a.csv")
        file = archive.entry_dir(row) / "attempts" / "1" / "attempt.json"
        kept = when_kept(archive, file)
        server.decide = taken
        archivefs("outbox", "--retry", row.id, "--archive", archive.root)
        archive.wait_for("other facts", lambda: file.stat().st_mtime_ns != kept.st_mtime_ns)
        wait_for_state(archive, "a.csv", "sent")
        assert when_kept(archive, file).st_size == len(file.read_bytes())
        assert archive.attempt(row)["reports"][0]["submission"]["state"] == "sent"


def when_kept(archive: Mounted, file: Path) -> os.stat_result:
    """Look at a file until the kernel keeps what it was told of it."""
    settled = time.monotonic() + 2 * RECENT_SECONDS

    def is_settled() -> bool:
        file.stat()
        return time.monotonic() > settled

    archive.wait_for("facts that are not recent any more", is_settled)
    return file.stat()


def shown(folder: Path) -> str:
    """Sizes and names as a listing gives them, without a stat of its own."""
    return run("find", folder, "-maxdepth", "1", "-printf", "%s %f\\n")


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_report_that_the_server_does_not_want_is_refused_and_the_next_goes_on(
    mounted: Make, status: int
) -> None:
    with report_server(flaky(Reply(status, b'{"error": "no such part number"}'))) as server:
        archive = mounted(config(sending("wats", server)))
        archive.drop("wats", "bad.csv", b"bad")
        said = wait_for_state(archive, "bad.csv", "refused")
        assert said["deliveries"][0]["error"] == f'HTTP {status}: {{"error": "no such part number"}}'
        archive.drop("wats", "good.csv", b"good")
        wait_for_state(archive, "good.csv", "sent")
        assert len(server.received) == 2
        assert "1 reports were refused" in alarms(archive)["outbox wats"]
        (row,) = listed(archive)
        assert (row["state"], row["name"], row["http_status"]) == ("refused", "bad.csv", status)


def test_a_server_that_is_down_gets_everything_once_it_is_up(mounted: Make) -> None:
    port = free_port()
    archive = mounted(config(sending("wats", f"http://127.0.0.1:{port}/")))
    for number in range(4):
        archive.drop("wats", f"{number}.csv", b"%d" % number)
        archive.wait_for_status(f"{number}.csv", "success")
    archive.wait_for("alarm", lambda: "outbox wats" in alarms(archive))
    assert "4 reports wait since" in alarms(archive)["outbox wats"]
    assert "ConnectError" in alarms(archive)["outbox wats"]
    row = listed(archive)[0]
    assert row["state"] == "queued"
    assert row["due_at"]
    assert "ConnectError" in row["error"]
    with report_server(port=port) as server:
        archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 4)
        assert len(server.received) == 4
    assert alarms(archive) == {}


def test_a_converter_whose_server_hangs_does_not_hold_up_another(mounted: Make) -> None:
    with report_server(lambda number, received: Reply(hang=True)) as deaf, report_server() as server:
        archive = mounted(config(sending("deaf", deaf), sending("wats", server)))
        archive.drop("deaf", "a.csv", b"a")
        archive.wait_for("request", lambda: deaf.received)
        for number in range(3):
            archive.drop("wats", f"{number}.csv", b"%d" % number)
        archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 3)


def test_no_more_uploads_run_at_once_than_allowed(mounted: Make) -> None:
    def slowly(number: int, received: Received) -> Reply:
        time.sleep(0.05)
        return taken(number, received)

    with report_server(slowly) as server:
        tables = [sending(f"c{number}", server) for number in range(6)]
        archive = mounted(config(*tables, max_concurrent_uploads=2))
        for number in range(6):
            for each in range(3):
                archive.drop(f"c{number}", f"{each}.csv", b"%d %d" % (number, each))
        archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 18)
        assert server.most_concurrent == 2


@pytest.mark.parametrize("dated", [False, True])
def test_a_server_that_asks_to_wait_is_left_alone_so_long(mounted: Make, dated: bool) -> None:  # noqa: FBT001
    def decide(number: int, received: Received) -> Reply:
        if number > 1:
            return taken(number, received)
        after = formatdate(time.time() + 2.5, usegmt=True) if dated else "1"
        return Reply(503, headers={"Retry-After": after})

    with report_server(decide) as server:
        archive = mounted(config(sending("wats", server)))
        archive.drop("wats", "a.csv", b"a")
        wait_for_state(archive, "a.csv", "sent")
        first, second = server.received
        assert second.at - first.at >= 0.95


def test_a_full_outbox_stops_converting_and_not_capturing(mounted: Make) -> None:
    with report_server(lambda number, received: Reply(503)) as server:
        archive = mounted(
            config(sending("wats", server, max_queue_size=3), converter("other", "python:good:Good"))
        )
        for number in range(8):
            archive.drop("wats", f"{number}.csv", b"%d" % number)
        archive.wait_for("full queue", lambda: numbers(archive)["queued"] >= 3)
        archive.wait_for("alarm", lambda: "nothing is converted" in alarms(archive).get("outbox wats", ""))
        archive.drop("other", "o.csv", b"o")
        archive.wait_for_status("o.csv", "success")
        waiting = [row.name for row in archive.entries() if row.status == "pending"]
        assert len(waiting) == 5
        server.decide = taken
        archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 8)
        assert alarms(archive) == {}


def test_a_token_is_read_at_each_delivery_and_stands_nowhere(mounted: Make, tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("first-secret-token\n")
    key.write_text("secret-key-of-the-plant")

    def decide(number: int, received: Received) -> Reply:
        given = received.headers.get("Authorization", "")
        if given == "Bearer second-secret-token":
            return taken(number, received)
        return Reply(401, f"{given} {received.headers['X-Key']} is not known".encode())

    with report_server(decide) as server:
        headers = {"X-Key": f"file:{key}", "X-Plant": "Oslo"}
        archive = mounted(config(sending("wats", server, token=f"file:{token}", headers=headers)))
        archive.drop("wats", "a.csv", b"a")
        archive.wait_for("alarm", lambda: "outbox wats" in alarms(archive))
        assert "HTTP 401: *** *** *** is not known" in alarms(archive)["outbox wats"]
        assert server.received[0].headers["X-Plant"] == "Oslo"
        token.write_text("second-secret-token\n")
        wait_for_state(archive, "a.csv", "sent")
        archive.umount()
    files = [file for file in archive.root.rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        assert b"secret-" not in file.read_bytes(), file


def test_a_token_from_the_environment(mounted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANT_TOKEN", "of-the-plant")
    with report_server() as server:
        archive = mounted(config(sending("wats", server, token="env:PLANT_TOKEN", token_scheme="Basic")))
        archive.drop("wats", "a.csv", b"a")
        wait_for_state(archive, "a.csv", "sent")
        assert server.received[0].headers["Authorization"] == "Basic of-the-plant"


def test_a_missing_token_holds_the_queue(mounted: Make) -> None:
    with report_server() as server:
        archive = mounted(config(sending("wats", server, token="file:no-such-token")))
        archive.drop("wats", "a.csv", b"a")
        archive.wait_for("alarm", lambda: "no-such-token cannot be read" in str(alarms(archive)))
        (archive.root / "no-such-token").write_text("found")
        wait_for_state(archive, "a.csv", "sent")


@pytest.mark.parametrize(
    "body",
    [b"", b"OK", b"<html>welcome</html>", b"\xff\xfe", b'{"id": {"a": 1}}', b'"' + b"x" * 100_000 + b'"'],
    ids=["empty", "text", "html", "binary", "object", "long"],
)
def test_a_report_that_was_taken_is_sent_whatever_the_answer_says_else(mounted: Make, body: bytes) -> None:
    with report_server(lambda number, received: Reply(201, body)) as server:
        archive = mounted(config(sending("wats", server)))
        archive.drop("wats", "a.csv", b"a")
        said = wait_for_state(archive, "a.csv", "sent")
        assert "answer_id" not in said["deliveries"][0]
        assert len(server.received) == 1


# -- stops ---------------------------------------------------------------------------------------------


def test_nothing_is_lost_and_the_order_kept_when_the_daemon_is_killed_while_it_sends(mounted: Make) -> None:
    def slowly(number: int, received: Received) -> Reply:
        time.sleep(0.01)
        return taken(number, received) if number % 7 else Reply(503)

    with report_server(slowly) as server:
        archive = mounted(config(sending("wats", server)))
        count = 60
        for number in range(count):
            archive.drop("wats", f"{number:03}.csv", b"%d" % number)
        for kill in range(1, 5):
            reached = kill * 12
            archive.wait_for("some reports", lambda reached=reached: len(set(server.ids)) >= reached, 30)
            archive.kill()
            archivefs("mount", archive.root, archive.point)
            archive.pid = json.loads((archive.root / "lock").read_bytes())["pid"]
        archive.wait_for("all reports", lambda: numbers(archive)["sent"] == count, 30)
        archive.umount()
        queued = [
            report_id
            for event in events(archive)
            if event["kind"] == "attempt_finished"
            for report_id in event.get("report_ids", [])
        ]
        assert len(queued) == len(set(queued)) == count
        assert list(dict.fromkeys(server.ids)) == queued  # first deliveries, in the order of the queue
        places = [queued.index(report_id) for report_id in server.ids]
        for before, after in itertools.pairwise(places):
            assert before - UNRECORDED < after <= before + 1  # it goes on, or back a little


def events(archive: Mounted) -> list[dict[str, Any]]:
    """The journal."""
    done = archivefs("log", "--json", "--archive", archive.root)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_delivery_that_hangs_ends_with_the_mount_and_is_made_again(mounted: Make) -> None:
    with report_server(lambda number, received: Reply(hang=True)) as server:
        archive = mounted(config(sending("wats", server, timeout_seconds=60)))
        archive.drop("wats", "a.csv", b"a")
        archive.wait_for("request", lambda: server.received)
        start = time.monotonic()
        archive.umount()
        assert time.monotonic() - start < 10
        server.decide = taken
        archive.mount()
        said = wait_for_state(archive, "a.csv", "sent")
        assert len(said["deliveries"]) == 1
        assert server.ids == [said["report_id"]] * 2


# -- folders and programs ------------------------------------------------------------------------------


def test_reports_are_put_into_a_folder_whole(mounted: Make, tmp_path: Path) -> None:
    target = tmp_path / "share"
    archive = mounted(
        config(converter("dir", "python:good:Several") + submit("dir", kind="directory", path=str(target)))
    )
    archive.drop("dir", "a.csv", b"a")
    archive.wait_for_status("a.csv", "success")
    archive.wait_for("alarm", lambda: "No such file or directory" in alarms(archive).get("outbox dir", ""))
    target.mkdir()
    archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 3)
    expected = {f"{reports.make_id(archive.only('a.csv').sha256, 'dir', each)}.json" for each in (1, 2, 3)}
    assert set(names_in(target)) == expected
    for name in expected:
        assert json.loads((target / name).read_bytes())["id"] == name.removesuffix(".json")
        assert (target / name).stat().st_mode & 0o777 == 0o644


def test_an_id_that_is_no_name_of_a_file_stays_in_the_folder(mounted: Make, tmp_path: Path) -> None:
    target = tmp_path / "share"
    target.mkdir()
    archive = mounted(
        config(converter("dir", "function:good:named") + submit("dir", kind="directory", path=str(target)))
    )
    for number, name in enumerate(("../../escaped", ".hidden", "a b", "s" * 200, "æ" * 200)):
        archive.drop("dir", f"{number}.csv", name.encode())
    archive.wait_for("all reports", lambda: numbers(archive)["sent"] == 5)
    found = names_in(target)
    assert len(found) == 5
    assert {"..%2F..%2Fescaped.json".replace("..%2F", "%2E.%2F", 1), "%2Ehidden.json", "a b.json"} <= set(
        found
    )
    assert not (tmp_path / "escaped.json").exists()


PROGRAM = """\
#!/bin/sh
echo "$ARCHIVEFS_REPORT_ID" >> "$1/ids"
cat "$2" >> "$1/reports"
exec "$1/what"
"""


def test_a_program_says_by_its_exit_status_what_became_of_a_report(mounted: Make, tmp_path: Path) -> None:
    folder = tmp_path / "receiver"
    folder.mkdir()
    program, what = folder / "deliver", folder / "what"
    program.write_text(PROGRAM)
    program.chmod(0o755)

    def does(script: str) -> None:
        fresh = folder / "fresh"
        fresh.write_text(f"#!/bin/sh\n{script}\n")
        fresh.chmod(0o755)
        fresh.replace(what)

    does("echo the line is busy >&2; exit 75")
    table = submit("run", kind="command", command=f"{program} {folder}", timeout_seconds=1)
    archive = mounted(config(converter("run", "python:good:Good") + table))
    archive.drop("run", "a.csv", b"a")
    archive.wait_for(
        "alarm", lambda: "exit status 75: the line is busy" in alarms(archive).get("outbox run", "")
    )
    does("kill -TERM $$")
    archive.wait_for("alarm", lambda: "was ended by SIGTERM" in alarms(archive).get("outbox run", ""))
    does("sleep 60 & sleep 60")
    archive.wait_for("alarm", lambda: "did not end within 1 seconds" in alarms(archive).get("outbox run", ""))
    does("exit 0")
    said = wait_for_state(archive, "a.csv", "sent")
    assert set((folder / "ids").read_text().split()) == {said["report_id"]}
    last = (folder / "reports").read_text().rpartition('{"id":')[2]
    assert json.loads('{"id":' + last)["id"] == said["report_id"]
    does("echo not this one >&2; exit 1")
    archive.drop("run", "b.csv", b"b")
    said = wait_for_state(archive, "b.csv", "refused")
    assert said["deliveries"][0]["error"] == "exit status 1: not this one"
    assert names_in(archive.root / "staging" / "outbox") == []
