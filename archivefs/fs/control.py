"""The folder control/: each file takes a command and gives the reply, as if one had said it to the daemon.

What one open descriptor writes and reads is a transaction, like that of the kernel's simple-transaction files
(fs/libfs.c): nobody else sees it.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import trio

from archivefs import control
from archivefs.archive import Archive
from archivefs.committer import Committer
from archivefs.errors import ArchiveError, ControlError, JobError, TooManyError
from archivefs.fs.inodes import Fixed
from archivefs.fs.node import DIR_MODE, Attributes, Directory, File, Handle, Listed, Node
from archivefs.jobs import running
from archivefs.jobs.engine import Engine
from archivefs.parts import Actor

CONTROL_MODE = 0o100600
BURST, A_SECOND = 20, 100 / 60
"""Commands of a user at once, and on and on (DESIGN, control files)."""
PIECE_BYTES = 4096
"""What is written without a newline at its end may be a piece of a line from this size on: bash's."""
RELOAD, LAST_ERROR, PROTOCOL = "reload", "last-error", "protocol"
JOB = "job "
"""What the name of a file begins with that steers a job."""
FILES = [*control.COMMANDS, RELOAD, LAST_ERROR, PROTOCOL]
"""In the order of their inode numbers."""


class Reload(Protocol):
    """Goes by archive.toml as it is now; returns the keys that changed, raises what is wrong with it."""

    def __call__(self, *, noted: bool = False) -> Awaitable[list[str]]:
        """``noted``: the journal says so already."""


def refusal(name: str, error: ArchiveError | OSError) -> bytes:
    """The answer to what failed."""
    code = error.exit_code if isinstance(error, ArchiveError) else 1
    reply = {"ok": False, "command": name, "error": str(error), "exit_code": code}
    return msgspec.json.encode(reply) + b"\n"


class Control:
    """Carries out what is written, one command after the other; knows what went wrong last, by user."""

    def __init__(
        self,
        archive: Archive,
        committer: Committer,
        reload: Reload,
        engine: Engine,
        operators: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``operators``: number of the group whose members may write commands, too."""
        self.operators = operators
        self.archive = archive
        self._committer = committer
        self._reload = reload
        self._engine = engine
        self._clock = clock
        self._one = trio.Lock()
        self._buckets: dict[int, tuple[float, float]] = {}
        self._errors: dict[int, bytes] = {}

    async def tell(self, name: str, words: list[str], actor: Actor) -> control.Reply:
        """The reply to a command. Raises ``ArchiveError``, ``OSError``. Not cancelled once it has begun."""
        self._take_token(actor.uid)
        if name.startswith(JOB):
            return await self._steer(int(name.removeprefix(JOB)), words, actor)
        async with self._one:
            if name == RELOAD:
                return {"changed": await self._reload()}
            reply: control.Reply = await trio.to_thread.run_sync(self._carry_out, name, words, actor)
            if name == "config":
                await self._reload(noted=True)
            self._engine.look()
            return reply

    async def _steer(self, job: int, words: list[str], actor: Actor) -> control.Reply:
        if len(words) != 1:
            raise JobError(f"job {job}: one word is a command: {', '.join(running.WORDS)}")
        return {"job": job, "state": str(await self._engine.tell(job, words[0], actor))}

    def _take_token(self, uid: int) -> None:
        tokens, at = self._buckets.get(uid, (float(BURST), self._clock()))
        now = self._clock()
        tokens = min(tokens + (now - at) * A_SECOND, float(BURST))
        is_enough = tokens >= 1
        self._buckets[uid] = (tokens - is_enough, now)
        if not is_enough:
            raise TooManyError(f"too many commands: at most {BURST} at once and {A_SECOND * 60:g} a minute")

    def _carry_out(self, name: str, words: list[str], actor: Actor) -> control.Reply:
        """In a thread, reading through a connection of its own."""
        with self.archive.beside() as reading:
            steps = control.COMMANDS[name].run(reading, words, actor)
            return control.carry_out(
                steps, lambda operations: trio.from_thread.run(self._committer.submit_all, operations)
            )

    def failed(self, uid: int, reply: bytes) -> None:
        """Remember the answer to a command that failed."""
        self._errors[uid] = reply

    def text(self, name: str, uid: int) -> bytes:
        """What a file says to whom nothing was answered yet."""
        if name == LAST_ERROR:
            return self._errors.get(uid, b"")
        if name == PROTOCOL:
            commands = {each: list(command.usage) for each, command in control.COMMANDS.items()}
            facts = {"version": control.VERSION, "commands": commands | {RELOAD: [""]}}
            return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"
        if name.startswith(JOB):
            words = "|".join(running.WORDS)
            return f"usage: echo {words} > jobs/{name.removeprefix(JOB)}/control\n".encode()
        if name == RELOAD:
            return b"usage: echo > reload\nGo by archive.toml as it is now.\n"
        command = control.COMMANDS[name]
        usage = "\n       ".join(f"echo {each} > {name}" for each in command.usage)
        return f"usage: {usage}\n{command.about}\nnow: {command.state(self.archive)}\n".encode()


class ControlDir(Directory):
    """control/."""

    ino = int(Fixed.CONTROL)

    def __init__(self, node: Callable[[int], Node], changed_ns: int) -> None:
        self._node = node
        self._changed_ns = changed_ns

    def attributes(self) -> Attributes:
        """Dated like the archive."""
        return Attributes(self.ino, DIR_MODE, mtime_ns=self._changed_ns, ctime_ns=self._changed_ns)

    def lookup(self, name: bytes) -> Node | None:
        """One of the files."""
        names = [each.encode() for each in FILES]
        return self._node(Fixed.CONTROL + 1 + names.index(name)) if name in names else None

    def entries(self, after: int) -> Iterator[Listed]:
        """The files."""
        for cookie, name in enumerate(FILES, 1):
            if cookie > after:
                yield cookie, name.encode(), self._node(Fixed.CONTROL + cookie)


class ControlFile(File):
    """A file in control/, or that of a job; who runs the mount may use it, and its operators."""

    def __init__(self, control: Control, ino: int, name: str, changed_ns: int) -> None:
        self.ino = ino
        self.name = name
        self.is_writable = self.name not in (LAST_ERROR, PROTOCOL)
        self._control = control
        self._changed_ns = changed_ns
        self._uid = -1

    def seen_by(self, uid: int) -> "ControlFile":
        """The file as this user sees it."""
        self._uid = uid
        return self

    def attributes(self) -> Attributes:
        """Its true size; the kernel must ask each time."""
        when, size = self._changed_ns, len(self._control.text(self.name, self._uid))
        group = self._control.operators
        mode = CONTROL_MODE | (0o060 if group is not None else 0) if self.is_writable else 0o100444
        return Attributes(
            self.ino, mode, size, 1, when, when, gid=group, attr_timeout=0, block_bytes=control.LINE_BYTES
        )  # fmt: skip

    def open(self) -> Handle:
        """For reading only."""
        return self.open_by(Actor(uid=self._uid))

    def open_by(self, actor: Actor) -> "Transaction":
        """For a command of this user."""
        return Transaction(self._control, self.name, actor)


class Transaction(Handle):
    """An open file of control/: what is written is one command, what is read then its reply.

    Programs write a long line in pieces, whatever st_blksize says: bash 4096 bytes at a time, dd as it is
    told. So a command is carried out when a newline has ended it, or when one that is too short to be such a
    piece is all that was written before the file is closed or read.
    """

    keep_cache = False

    def __init__(self, control: Control, name: str, actor: Actor) -> None:
        self._control = control
        self._name = name
        self._actor = actor
        self._text = control.text(name, actor.uid)
        self._pieces: list[bytes] = []
        """Of a command that no newline has ended yet."""
        self._refused: ArchiveError | None = None
        """Why what was written is no command; what comes before the file is closed or read belongs to it."""
        self._end = 0
        """Where the command ended in the eyes of a reader who goes on behind it."""
        self._base: int | None = 0

    async def write(self, offset: int, data: bytes) -> int:
        """Carry out a command, or keep a piece of it.

        Raises what undid it, which can be read here and in last-error.
        """
        if self._refused is not None:
            raise self._refused
        self._pieces.append(data)
        line, end = b"".join(self._pieces), offset + len(data)
        if line.endswith(b"\n") or len(line) > control.LINE_BYTES:
            self._pieces = []
            try:
                self._refused = await self._carry_out(line)
            except (ArchiveError, OSError):
                self._end = offset
                raise
            if self._refused is not None:
                self._end = offset
                raise self._refused
        self._end = end
        return len(data)

    async def flush(self) -> None:
        """close(): carry out what no newline ended. Raises what undid it."""
        self._refused, pieces, self._pieces = None, self._pieces, []
        if len(pieces) > 1 or (pieces and len(pieces[0]) >= PIECE_BYTES):
            self._refused = ControlError("a long command, or one written in pieces, ends with a newline")
            self._answer_failure(self._refused)
            raise self._refused
        refused = await self._carry_out(pieces[0]) if pieces else None
        if refused is not None:
            raise refused

    async def _carry_out(self, line: bytes) -> ArchiveError | None:
        """Returns why it is no command, raises what undid it."""
        try:
            words = control.words_of(line)
        except ArchiveError as error:
            self._answer_failure(error)
            return error
        try:
            reply = {"ok": True, **await self._control.tell(self._name, words, self._actor)}
        except (ArchiveError, OSError) as error:
            self._answer_failure(error)
            raise
        self._answer(msgspec.json.encode(reply) + b"\n")
        return None

    def _answer_failure(self, error: ArchiveError | OSError) -> None:
        self._answer(refusal(self._name, error))
        self._control.failed(self._actor.uid, self._text)

    def _answer(self, text: bytes) -> None:
        self._text, self._base = text, None

    async def read(self, offset: int, size: int) -> bytes:
        """The reply, from the start of the file or from where the command ended, as the reader likes."""
        with contextlib.suppress(ArchiveError, OSError):  # it is the reply
            await self.flush()
        self._refused = None
        if self._base is None:
            self._base = self._end if offset == self._end else 0
        return self._text[max(offset - self._base, 0) :][:size]
