"""Reports to a program, whose exit status says what became of them."""

import contextlib
import os
import signal
from pathlib import Path
from subprocess import DEVNULL

import trio

from archivefs.config import SubmitConfig
from archivefs.states import Submission
from archivefs.submit.delivery import ERROR_LENGTH, Answer, Letter, later, program_of, refused

TRY_AGAIN = os.EX_TEMPFAIL
ERROR_BYTES = 4 * ERROR_LENGTH


async def deliver(root: Path, config: SubmitConfig, letter: Letter, folder: Path) -> Answer:
    """Run the program with the path of a file that holds the report, written to ``folder``.

    Raises nothing but bugs. When its time is up, or on cancellation, the program and its children are killed.
    """
    file, said = folder / "report.json", folder / "stderr"
    words = program_of(config.command, root)
    try:
        await trio.to_thread.run_sync(file.write_bytes, letter.body)
        with said.open("wb") as errors:
            process = await trio.lowlevel.open_process(
                [*words, str(file)], stdin=DEVNULL, stdout=DEVNULL, stderr=errors, cwd=root,
                start_new_session=True, env={**os.environ, **_variables(letter)},
            )  # fmt: skip
    except OSError as error:
        return later(f"{words[0]} cannot be started: {error.strerror or error}")
    code: int | None = None
    try:
        with trio.move_on_after(config.timeout_seconds):
            code = await process.wait()
    finally:
        if code is None:
            await _kill(process)
    if code is None:
        return later(f"{words[0]} did not end within {config.timeout_seconds:g} seconds")
    text = await trio.to_thread.run_sync(_end_of, said)
    if code == 0:
        return Answer(Submission.SENT)
    if code < 0:
        return later(f"{words[0]} was ended by {signal.Signals(-code).name}: {text}")
    why = f"exit status {code}: {text}" if text else f"{words[0]} ended with exit status {code}"
    return later(why) if code == TRY_AGAIN else refused(why)


def _variables(letter: Letter) -> dict[str, str]:
    return {
        "ARCHIVEFS_REPORT_ID": letter.report_id,
        "ARCHIVEFS_CONVERTER": letter.converter,
        "ARCHIVEFS_ID": letter.id,
        "ARCHIVEFS_ATTEMPT": str(letter.attempt),
        "ARCHIVEFS_ORDINAL": str(letter.ordinal),
    }


def _end_of(file: Path) -> str:
    with file.open("rb") as errors:
        errors.seek(max(os.fstat(errors.fileno()).st_size - ERROR_BYTES, 0))
        return errors.read(ERROR_BYTES).decode("utf-8", "replace").strip()


async def _kill(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
