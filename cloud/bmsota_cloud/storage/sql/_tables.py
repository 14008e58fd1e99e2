"""What the groups of tables share: rows from and to dataclasses of the same field names."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Select, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.paging import Page, PageRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


# SQLite allows some ten thousand variables in a statement; VIN lists come from pages (500) and are cut all the same.
_IN_LIST_MAX = 500

Kind = TypeVar("Kind")

_ID = frozenset({"id"})


def values_of(item: Any, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in fields(item) if field.name not in without}


def in_lists(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """*keys* in parts that one statement can take."""
    return (keys[start : start + _IN_LIST_MAX] for start in range(0, len(keys), _IN_LIST_MAX))


def _noun(table: Table) -> str:
    return str(table.name).replace("_", " ")


class Tables:
    """What the groups of tables share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _add(self, table: Table, item: Any, **more: Any) -> int:
        """Insert; the new id for tables that count, else 0."""
        counts = "id" in table.c
        values = values_of(item, without=_ID if counts else frozenset()) | more
        values = {name: value for name, value in values.items() if name in table.c}
        try:
            # A savepoint, so that a refused row does not spoil the transaction on PostgreSQL. On SQLite a refused statement undoes
            # itself and nothing else.
            with nullcontext() if self._connection.dialect.name == "sqlite" else self._connection.begin_nested():
                result = self._connection.execute(insert(table).values(**values))
        except IntegrityError as error:
            raise ConflictError("already-there", f"this {_noun(table)} already exists") from error
        return int(result.inserted_primary_key[0]) if counts and result.inserted_primary_key else 0

    def _save(self, table: Table, item: Any) -> None:
        """Update by the primary key."""
        values = values_of(item)
        keys = [column.name for column in table.primary_key.columns]
        changed = {name: value for name, value in values.items() if name in table.c and name not in keys}
        statement = update(table).where(*(table.c[key] == values[key] for key in keys)).values(**changed)
        if self._connection.execute(statement).rowcount != 1:
            raise ConflictError("not-there", f"no such {_noun(table)}")

    def _add_all(self, table: Table, items: Sequence[Any]) -> None:
        """Insert many at once; a row that is there already is refused with all the others."""
        if not items:
            return
        counts = "id" in table.c
        values = [values_of(item, without=_ID if counts else frozenset()) for item in items]
        try:
            with self._connection.begin_nested():
                self._connection.execute(insert(table), values)
        except IntegrityError as error:
            raise ConflictError("already-there", f"this {_noun(table)} already exists") from error

    def _save_all(self, table: Table, items: Sequence[Any]) -> None:
        """Update many at once by the primary key."""
        if not items:
            return
        keys = [column.name for column in table.primary_key.columns]
        statement = (
            update(table)
            .where(*(table.c[key] == bindparam(f"key_{key}") for key in keys))
            .values({column.name: bindparam(column.name) for column in table.c if column.name not in keys})
        )
        rows = [
            {f"key_{name}" if name in keys else name: value for name, value in values_of(item).items()}
            for item in items
        ]
        if self._connection.execute(statement, rows).rowcount != len(items):
            raise ConflictError("not-there", f"no such {_noun(table)}")

    def _upsert(self, table: Table, item: Any) -> None:
        values = {name: value for name, value in values_of(item).items() if name in table.c}
        upsert(self._connection, table, values)

    def _one(self, kind: type[Kind], statement: Select[Any], *, lock: bool = False) -> Kind | None:
        # SQLite has no FOR UPDATE and needs none: a transaction of ours has the whole file.
        row = self._connection.execute(statement.with_for_update() if lock else statement).mappings().first()
        return None if row is None else kind(**row)

    def _all(self, kind: type[Kind], statement: Select[Any], *, lock: bool = False) -> tuple[Kind, ...]:
        rows = self._connection.execute(statement.with_for_update() if lock else statement).mappings()
        return tuple(kind(**row) for row in rows)

    def _page(self, kind: type[Kind], statement: Select[Any], request: PageRequest) -> Page[Kind]:
        return page_of(self._connection, kind, statement, request)


def page_of(
    connection: Connection, kind: Callable[..., Kind], statement: Select[Any], request: PageRequest
) -> Page[Kind]:
    total = connection.execute(select(func.count()).select_from(statement.order_by(None).subquery())).scalar_one()
    rows = connection.execute(statement.limit(request.size).offset(request.offset)).mappings()
    return Page(items=tuple(kind(**row) for row in rows), total=total, number=request.number, size=request.size)


def upsert(connection: Connection, table: Table, values: dict[str, Any]) -> None:
    keys = [column.name for column in table.primary_key.columns]
    changed = {name: value for name, value in values.items() if name not in keys}
    if connection.dialect.name == "postgresql":
        on_postgresql = postgresql.insert(table).values(**values)
        connection.execute(on_postgresql.on_conflict_do_update(index_elements=keys, set_=changed))
    else:
        on_sqlite = sqlite.insert(table).values(**values)
        connection.execute(on_sqlite.on_conflict_do_update(index_elements=keys, set_=changed))


def insert_new(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert unless a row of the same primary key is there; whether it was new. Waits for another one that inserts the same."""
    keys = [column.name for column in table.primary_key.columns]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing(index_elements=keys)
    # Not by the row count: psycopg knows none for an insert that SQLAlchemy makes.
    return connection.execute(statement.returning(table.c[keys[0]])).first() is not None
