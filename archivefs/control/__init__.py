"""What a person may tell an archive: words in, one JSON object out.

The commands are the same whoever holds the archive: the command line where it is not mounted, the files in
``control/`` where it is. Each is a generator. It yields groups of operations, is sent what each of them made
or raised, and returns the reply.
"""

from collections.abc import Mapping

from archivefs.control import entries, upkeep
from archivefs.control.entries import retried
from archivefs.control.steps import LINE_BYTES, VERSION, Command, Reply, words_of
from archivefs.steps import carry_out

__all__ = ["COMMANDS", "LINE_BYTES", "VERSION", "Command", "Reply", "carry_out", "retried", "words_of"]

COMMANDS: Mapping[str, Command] = {**entries.COMMANDS, **upkeep.COMMANDS}
"""By the name of the file in ``control/``."""
