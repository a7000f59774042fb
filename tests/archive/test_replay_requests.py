"""What a replay is asked for: options that cannot be meant are refused with what is allowed."""

import pytest

from archivefs.archive import Archive
from archivefs.control.steps import ControlError
from archivefs.control.upkeep import replay_request


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("set.limit", r'"set.limit": an argument is written set.NAME=VALUE'),
        ("set.=5", r'"set.=5": an argument is written set.NAME=VALUE'),
        ("code=new", r'code: is "new", allowed are: current, original, path:FOLDER'),
        ("code=path:new", r'code: is "path:new", allowed are: .* the whole path'),
        ("arguments=old", r'arguments: is "old", allowed are: current, original'),
        ("submit=maybe", r'submit: is "maybe", allowed are: yes, no'),
        ("on_error=stop", r'on_error: is "stop", allowed are: skip, abort'),
        ("rate=-1", r'rate: is "-1", must be a number of entries a second'),
        ("rate=fast", r'rate: is "fast", must be a number of entries a second'),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(archive: Archive, word: str, says: str) -> None:
    with pytest.raises(ControlError, match=says):
        replay_request(archive, ["converter=ict", word])


def test_a_replay_of_everything_is_not_what_no_query_means(archive: Archive) -> None:
    with pytest.raises(ControlError, match="which entries"):
        replay_request(archive, ["set.limit=5"])


def test_arguments_are_json_or_else_text(archive: Archive) -> None:
    words = ["converter=ict", "set.limit=4.5", "set.unit=V", 'set.names=["a"]', "set.note=a=b"]
    request, dry_run = replay_request(archive, words)
    assert request["settings"] == {"limit": 4.5, "unit": "V", "names": ["a"], "note": "a=b"}
    assert request["query"] == ["converter=ict"]
    assert not dry_run
