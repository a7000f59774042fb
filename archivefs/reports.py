"""The id of a report: its converter's, or one that is the same however often the report is made."""

import uuid

import msgspec

NAMESPACE = uuid.UUID("b0a7c1de-6f0e-5d0c-9a53-0d8b6a1c7f42")
"""Of the ids that archivefs makes (docs/submission.md); must never change."""
LONGEST_ID = 200


class _Identified(msgspec.Struct):
    id: object = None


def id_of(report: bytes) -> str:
    """The member ``id`` of a report, '' where it has none: a text of up to 200 characters, or an integer."""
    try:
        given = msgspec.json.decode(report, type=_Identified).id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    return given if isinstance(given, str) and len(given) <= LONGEST_ID and given.isprintable() else ""


def make_id(source_sha256: str, converter: str, ordinal: int) -> str:
    """The id of a report that brought none: a UUID of version 5 (RFC 9562) of what it was made from.

    A source that is converted again gives reports with the same ids, so that a receiver replaces them.
    """
    return str(uuid.uuid5(NAMESPACE, f"{source_sha256}/{converter}/{ordinal}"))


def with_id(report: bytes, report_id: str) -> bytes:
    """The report as it is sent: as it is, with a member ``id`` in front where it has none of its own."""
    if id_of(report) or not report.lstrip().startswith(b"{"):
        return report
    try:
        members = msgspec.json.decode(report, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return report
    if "id" in members:  # one that is no id: null, or an object
        members = {"id": msgspec.Raw(msgspec.json.encode(report_id))} | {
            key: value for key, value in members.items() if key != "id"
        }
        return msgspec.json.encode(members)
    rest = report.lstrip()[1:]
    comma = b"," if members else b""
    return b'{"id":' + msgspec.json.encode(report_id) + comma + rest
