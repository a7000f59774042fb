"""The folder control/: each file takes a command and gives the reply, as if one had said it to the daemon.

What one open descriptor writes and reads is a transaction, like that of the kernel's simple-transaction files
(fs/libfs.c): nobody else sees it.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import trio

from archivefs import control
from archivefs.archive import Archive
from archivefs.committer import Committer
from archivefs.errors import ArchiveError, JobError, TooManyError
from archivefs.fs.inodes import Fixed
from archivefs.fs.node import DIR_MODE, Attributes, Directory, File, Handle, Listed, Node
from archivefs.jobs import engine
from archivefs.jobs.engine import Engine
from archivefs.parts import Actor

CONTROL_MODE = 0o100600
BURST, A_SECOND = 20, 100 / 60
"""Commands of a user at once, and on and on (DESIGN, control files)."""
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

    async def tell(self, name: str, line: bytes, actor: Actor) -> control.Reply:
        """The reply to a command. Raises ``ArchiveError``, ``OSError``. Not cancelled once it has begun."""
        self._take_token(actor.uid)
        words = control.words_of(line)
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
            raise JobError(f"job {job}: one word is a command: {', '.join(engine.WORDS)}")
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
            words = "|".join(engine.WORDS)
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
        return Attributes(self.ino, mode, size, 1, when, when, gid=group, attr_timeout=0)

    def open(self) -> Handle:
        """For reading only."""
        return self.open_by(Actor(uid=self._uid))

    def open_by(self, actor: Actor) -> "Transaction":
        """For a command of this user."""
        return Transaction(self._control, self.name, actor)


class Transaction(Handle):
    """An open file of control/: what is written is one command, what is read then its reply."""

    keep_cache = False

    def __init__(self, control: Control, name: str, actor: Actor) -> None:
        self._control = control
        self._name = name
        self._actor = actor
        self._text = control.text(name, actor.uid)
        self._end = 0
        """Where the command ended in the eyes of a reader who goes on behind it."""
        self._base: int | None = 0

    async def write(self, offset: int, data: bytes) -> int:
        """Carry out a command. Raises what undid it, which can be read here and in last-error."""
        failure: ArchiveError | OSError | None = None
        try:
            reply = {"ok": True, **await self._control.tell(self._name, data, self._actor)}
        except (ArchiveError, OSError) as error:
            failure = error
            self._text = refusal(self._name, error)
        else:
            self._text = msgspec.json.encode(reply) + b"\n"
        self._base = None
        self._end = offset + len(data) if failure is None else offset
        if failure is not None:
            self._control.failed(self._actor.uid, self._text)
            raise failure
        return len(data)

    async def read(self, offset: int, size: int) -> bytes:
        """The reply, from the start of the file or from where the command ended, as the reader likes."""
        if self._base is None:
            self._base = self._end if offset == self._end else 0
        return self._text[max(offset - self._base, 0) :][:size]
