"""Reports to an HTTP server: how they are posted, and what its answers mean (RFC 9110). Alone knows httpx."""

import logging
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import httpx
import msgspec
import trio

from archivefs import __version__
from archivefs.config import SubmitConfig
from archivefs.states import Submission
from archivefs.submit.delivery import Answer, Letter, SecretError, later, refused, secret

ANSWER_BYTES = 64 << 10
"""What is read of an answer; an id or an error stands at its beginning."""
TRANSIENT = frozenset({408, 425, 429})
"""Statuses of the 400s that say nothing about the report."""
TROUBLE = frozenset({401, 403, 407})
"""Statuses that are about the sender: every report would be refused, so all wait until it is put right."""
ID_NAMES = frozenset({"id", "reportid", "uuid", "guid"})
"""Members of an answer that name the report; compared without ``_`` and ``-``, in small letters."""
SECRET_LENGTH = 5
"""Shorter words of a header are no secrets, and would be found anywhere."""

# They log each request; at DEBUG with its headers, which nobody is to read.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class HttpReceiver:
    """Posts letters; keeps connections between them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def deliver(self, config: SubmitConfig, letter: Letter) -> Answer:
        """Post a report and say what the answer means; raises nothing but bugs. May be cancelled."""
        try:
            given = (config.token, *config.headers.values())
            if any(value.startswith("file:") for value in given):
                headers = await trio.to_thread.run_sync(self._headers, config, letter)
            else:
                headers = self._headers(config, letter)
            client = await self._client(config.ca_file)
        except (SecretError, OSError) as error:
            return later(str(error))
        answer = later(f"no answer within {config.timeout_seconds:g} seconds")
        with trio.move_on_after(config.timeout_seconds):
            try:
                status, retry_after, body = await _post(client, config.url, headers, letter.body)
                answer = meaning(status, retry_after, _without_secrets(body, headers, config))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                answer = later(_words(error))
        return answer

    async def aclose(self) -> None:
        """Close all connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()

    def _headers(self, config: SubmitConfig, letter: Letter) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if letter.report_id.isascii() and letter.report_id == letter.report_id.strip():
            headers["Idempotency-Key"] = letter.report_id
        headers |= {name: secret(value, self._root) for name, value in config.headers.items()}
        if config.token:
            headers["Authorization"] = f"{config.token_scheme} {secret(config.token, self._root)}"
        return headers

    async def _client(self, ca_file: str) -> httpx.AsyncClient:
        if ca_file not in self._clients:
            self._clients[ca_file] = await trio.to_thread.run_sync(partial(_make_client, self._root, ca_file))
        return self._clients[ca_file]


def _make_client(root: Path, ca_file: str) -> httpx.AsyncClient:
    try:
        context = (
            ssl.create_default_context(cafile=str(root / ca_file)) if ca_file else httpx.create_ssl_context()
        )
    except OSError as error:  # that of ssl is one, too
        raise SecretError(f"ca_file: {root / ca_file}: {error.strerror or error}") from None
    return httpx.AsyncClient(verify=context, timeout=None, headers={"User-Agent": f"archivefs/{__version__}"})


async def _post(
    client: httpx.AsyncClient, url: str, headers: dict[str, str], body: bytes
) -> tuple[int, str, bytes]:
    """Status, ``Retry-After`` and the beginning of the body of an answer. Raises ``httpx.HTTPError``."""
    async with client.stream("POST", url, headers=headers, content=body) as response:
        said = b""
        try:
            async for piece in response.aiter_bytes(ANSWER_BYTES):
                said += piece
                if len(said) >= ANSWER_BYTES:
                    break
        except httpx.HTTPError:
            if not response.is_success:
                raise
            # The server has taken it; that its answer breaks off changes nothing.
    return response.status_code, response.headers.get("Retry-After", ""), said[:ANSWER_BYTES]


def _words(error: Exception) -> str:
    """What a failed connection is told as; where the error has no text, one that led to it may (TLS)."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__ if cause is None else f"{type(error).__name__}: {cause}"


def meaning(status: int, retry_after: str, body: bytes) -> Answer:
    """What an answer says about the report."""
    if 200 <= status < 300:
        return Answer(Submission.SENT, status, id_in(body))
    error = f"HTTP {status}: {body.decode('utf-8', 'replace')}" if body.strip() else f"HTTP {status}"
    if 300 <= status < 400:
        return later(f"{error} (redirects are not followed: give the new url)", http_status=status)
    if status in TROUBLE:
        return later(error, http_status=status)
    if status >= 500 or status in TRANSIENT:
        return later(error, http_status=status, retry_after=seconds_of(retry_after))
    return refused(error, http_status=status)


def seconds_of(retry_after: str) -> float:
    """Seconds from now of a ``Retry-After``: a number, or a date (RFC 9110, 10.2.3); 0 for anything else."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)


def id_in(body: bytes) -> str:
    """The id that an answer gives the report; '' where it gives none."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if isinstance(said, dict):
        named = (value for key, value in said.items() if _plain(key) in ID_NAMES)
        said = next((value for value in named if isinstance(value, str | int)), None)
    if isinstance(said, bool) or not isinstance(said, str | int):
        return ""
    text = str(said)
    return text if len(text) <= 200 and text.isprintable() else ""


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _without_secrets(body: bytes, headers: dict[str, str], config: SubmitConfig) -> bytes:
    """An answer, which may repeat what it was asked with, without tokens and headers that are secret."""
    names = [name for name, value in config.headers.items() if value.startswith(("env:", "file:"))]
    for name in (*names, *(["Authorization"] if config.token else [])):
        for word in headers[name].split():
            if len(word) >= SECRET_LENGTH:
                body = body.replace(word.encode(), b"***")
    return body
