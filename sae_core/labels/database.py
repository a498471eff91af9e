"""Connect to the labels: a SQLite file, or a server with an SQLAlchemy address. Passwords never leave this module."""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from sae_core.foundation.errors import UserError
from sae_core.labels.schema import FORMAT, READABLE, format_of, make_current

_WAIT_SECONDS = 30.0
_EXAMPLE = "postgresql://name@host/database or sqlite:///labels.sqlite"
_SECRET_WORDS = ("pass", "secret", "token", "key", "pwd")


class _Database(ABC):
    """The reading of labels, which is the same for a file and for a server.

    Args:
        address: The place of the labels, which may hold a password.
        shown: The place for people.
    """

    def __init__(self, address: str, shown: str) -> None:
        self._address, self.shown = address, shown

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """A connection for reading; None while nobody has written a label."""
        with self._sentences("read"):
            held = _HELD.get()
            if held is None or held.place != self._address:
                with self._opened() as connection:
                    yield connection
                return
            try:
                yield held.opened(self._opened)
            except BaseException:
                _let_go()
                raise

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let all reads of a thread in a block share one connection, until the thread writes.

        Opening a connection takes longer than reading a label. The first read opens the connection.
        """
        held = _HELD.get()
        if held is not None and held.place == self._address:
            yield
            return
        with ExitStack() as stack:
            before = _HELD.set(_Held(self._address, stack))
            try:
                yield
            finally:
                _HELD.reset(before)

    @contextmanager
    def _opened(self) -> Iterator[Connection | None]:
        """Open a connection for reading; None where there are no labels. Convert tables of an older format first."""
        if not self._exists():
            yield None
            return
        with self._connected() as connection:
            there = FORMAT if self._key() in _CURRENT else format_of(connection)
            self._refuse_newer(there)
            if there == FORMAT:
                _CURRENT.add(self._key())
            if there == 0 or there in READABLE:
                yield connection if there else None
                return
        with self._converted() as connection:
            yield connection

    def _refuse_newer(self, there: int) -> None:
        if there > FORMAT:
            raise UserError(
                f"The labels in {self.shown} are of a newer sae-ensemble (format {there}); update this one."
            )

    def _exists(self) -> bool:
        return True

    @abstractmethod
    def _key(self) -> tuple[str, int]:
        """The database as it is now, for `_CURRENT`."""

    @abstractmethod
    def _connected(self) -> Connection:
        """Open a connection for reading."""

    @abstractmethod
    def _converted(self) -> Connection:
        """Convert tables of an older format, and open a connection for reading."""

    @abstractmethod
    def _sentences(self, deed: str) -> AbstractContextManager[None]:
        """Say in one sentence what went wrong in a block."""


@dataclass(slots=True)
class _Held:
    """The connection through which a thread reads, opened by its first read."""

    place: str
    stack: ExitStack
    connection: Connection | None = None

    def opened(self, open_one: Callable[[], AbstractContextManager[Connection | None]]) -> Connection | None:
        if self.connection is None:
            with ExitStack() as opening:
                self.connection = opening.enter_context(open_one())
                # A server without labels leaves the connection unused; close it, since servers have few connections.
                if self.connection is not None:
                    self.stack.push(opening.pop_all())
        return self.connection


_HELD: ContextVar[_Held | None] = ContextVar("connection of labels", default=None)


def _let_go() -> None:
    """Close this thread's connection before it writes: the connection would miss the new label, or block writing it."""
    held = _HELD.get()
    if held is not None:
        _HELD.set(None)
        held.stack.close()


class SQLiteFile(_Database):
    """A SQLite file. Every call opens its own connection, so threads and processes may share a file.

    Args:
        path: The file.
        in_run: Whether the file belongs in a run folder, which is then never created for the file.
    """

    def __init__(self, path: Path, *, in_run: bool = False) -> None:
        super().__init__(str(path), str(path))
        self.path, self._in_run = path, in_run

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection within a transaction that is kept if all goes well."""
        _let_go()
        with self._sentences("saved"):
            if self._in_run and not self.path.parent.is_dir():
                raise UserError(
                    f"Labels cannot be saved in {self.path}, as its folder is gone; restore the run or open another."
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _engine_of_file(str(self.path), "write").begin() as connection:
                self._refuse_newer(format_of(connection))
                make_current(connection)
                yield connection

    def _exists(self) -> bool:
        return self.path.exists()

    def _connected(self) -> Connection:
        return _engine_of_file(str(self.path), "read").connect()

    def _converted(self) -> Connection:
        try:
            with self.writing():
                pass
        except UserError:  # the file is read-only, so a copy in memory is converted
            connection = _engine(lambda: _copied(self.path), "BEGIN").connect()
            make_current(connection)
            return connection
        return self._connected()

    @contextmanager
    def _sentences(self, deed: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            where, remedy = {
                "read": ("from", "restore or remove the file"),
                "saved": ("in", "make the folder writable, or make room"),
            }[deed]
            raise UserError(f"Labels cannot be {deed} {where} {self.path} ({_reason(error)}); {remedy}.") from None

    def _key(self) -> tuple[str, int]:
        # Another file may replace this one.
        about = self.path.stat()
        return self._address, hash((about.st_ino, about.st_mtime_ns))


@lru_cache(maxsize=64)
def _engine_of_file(path: str, purpose: str) -> Engine:
    if purpose == "read":
        return _engine(lambda: _connect(Path(path), "mode=ro"), "BEGIN")
    # Take the lock before reading, so that nobody writes between reading the old label and writing the new one.
    return _engine(lambda: _connect(Path(path), "mode=rwc"), "BEGIN IMMEDIATE")


def _engine(connect: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _connect(path: Path, options: str) -> sqlite3.Connection:
    """Open a connection and test it. On a read-only medium, the option `immutable` tells WAL that nobody writes."""
    # Without an isolation level Python's module begins no transactions; the events above begin them.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{options}",
        uri=True,
        timeout=_WAIT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if options == "mode=rwc":
            connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        connection.close()
        if options != "mode=ro" or not isinstance(error, sqlite3.OperationalError):
            raise
        return _connect(path, "mode=ro&immutable=1")
    return connection


def _copied(path: Path) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with closing(_connect(path, "mode=ro")) as connection:
        connection.backup(memory)
    return memory


class Server(_Database):
    """A database server such as PostgreSQL.

    Args:
        url: The server's address.
    """

    def __init__(self, url: URL) -> None:
        super().__init__(url.render_as_string(hide_password=False), _masked(url))
        self._url = url

    def _connected(self) -> Connection:
        return self._engine().connect()

    def _converted(self) -> Connection:
        self._make_tables()
        return self._connected()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection within a transaction that is kept if all goes well."""
        _let_go()
        with self._sentences("saved"):
            if self._key() not in _CURRENT:
                self._make_tables()
            with self._engine().begin() as connection:
                self._refuse_newer(format_of(connection))  # another program may have converted the tables meanwhile
                yield connection

    def _make_tables(self) -> None:
        for last in (False, True):
            try:
                with self._engine().begin() as connection:
                    self._refuse_newer(format_of(connection))
                    make_current(connection)
            except (IntegrityError, DBAPIError):
                # Two programs that start together both try to make the tables; the second one finds them made.
                if last:
                    raise
            else:
                break
        _CURRENT.add(self._key())

    def _engine(self) -> Engine:
        return _engine_of_server(*self._key())

    def _key(self) -> tuple[str, int]:
        # A forked process may not share the connections of its parent.
        return self._address, os.getpid()

    @contextmanager
    def _sentences(self, deed: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = _reason(error)
            for secret in _secrets(self._url):
                reason = reason.replace(secret, "***")
            _CURRENT.discard(self._key())
            raise UserError(
                f"Labels cannot be {deed} at {self.shown} ({reason}); look whether the server runs and lets you in."
            ) from None


_CURRENT: set[tuple[str, int]] = set()
"""Files and servers whose tables are known to have the present format."""


@lru_cache(maxsize=8)
def _engine_of_server(address: str, process: int) -> Engine:
    return create_engine(make_url(address), pool_pre_ping=True, pool_size=5, max_overflow=15)


def database_at(address: str) -> SQLiteFile | Server:
    """Return the database at an address.

    Args:
        address: An SQLAlchemy address; ``postgresql://`` alone means the driver psycopg.

    Raises:
        UserError: If the address is not valid, or its driver is not installed. The message never repeats a password.
    """
    try:
        url = make_url(address.strip())
    except (ArgumentError, ValueError):
        raise UserError(f"The address of the labels is no database address; give one such as {_EXAMPLE}.") from None
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise UserError(f"Labels in memory would be lost; give an address such as {_EXAMPLE}.")
        return SQLiteFile(Path(str(url.database)))
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise UserError(f"SQLAlchemy knows no database {url.drivername!r}; give one such as {_EXAMPLE}.") from None
    except ImportError as error:
        remedy = "pip install -e '.[postgres]'" if "psycopg" in url.drivername else f"install {error.name or 'it'}"
        raise UserError(f"The driver of {url.drivername} is not installed; {remedy}.") from None
    return Server(url)


def shown_address(address: str) -> str:
    """Return an address without its password.

    Raises:
        UserError: If the address is not valid.
    """
    return database_at(address).shown


def _masked(url: URL) -> str:
    hidden = {name: "***" for name in url.query if any(word in name.lower() for word in _SECRET_WORDS)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _secrets(url: URL) -> list[str]:
    named = [str(value) for name, value in url.query.items() if any(word in name.lower() for word in _SECRET_WORDS)]
    return [secret for secret in (str(url.password or ""), *named) if secret]


def _reason(error: Exception) -> str:
    """The database's error message in one line, without the statement and its values."""
    said = str(getattr(error, "orig", None) or error).strip()
    return " ".join((said.splitlines() or [type(error).__name__])[0].split())
