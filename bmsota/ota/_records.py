"""Records in numbered layouts: what one firmware keeps in flash, and the next one, or the one before, must read.

The rule, for every record of a unit (docs/trust.md, "Records and documents of another version"):

* A record says its layout; one that does not is of layout 0.
* A field more does not raise the number. A reader keeps fields it does not know and writes them back.
* An older layout is read, and written anew in today's at the next change.
* A newer layout, and a damaged record, is `RecordError`: its reader says so in the log and does without the record.
* **While the image that runs is not confirmed, a record is written in the layout in which it was found**: if the next boot
  reverts the image, the one before finds what it can read. So every layout that can be read can also be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bmsota.errors import BmsotaError, RecordError
from bmsota.ota import _cbor
from bmsota.ota._fields import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _layout_of(value: Any) -> Any:
    return value.get(LAYOUT, 0) if isinstance(value, dict) else 0


@dataclass(frozen=True, slots=True)
class OlderLayout:
    """How an older layout is read and written."""

    parse: Callable[[Any], dict[str, Any]]
    """The decoded record to today's fields. It may raise what `check` may."""
    build: Callable[[Mapping[str, Any]], Any]
    """Today's fields to what is encoded; bytes are kept as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFormat:
    """The layouts of one record."""

    title: str
    """What messages call it."""
    layout: int
    """Today's: a map of `names`, the number, and whatever fields a later version has added."""
    names: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], None]
    """Raises BmsotaError, ValueError, TypeError, KeyError or AttributeError unless every field of `names` can be used."""
    older: Mapping[int, OlderLayout]
    layout_of: Callable[[Any], Any] = _layout_of
    """Where a decoded record says its layout."""
    decode: Callable[[bytes], Any] = _cbor.decode

    def loads(self, data: bytes) -> tuple[dict[str, Any], int]:
        """Today's fields, with those not known yet, and the layout they were found in.

        Raises:
            RecordError: damaged, or of a newer layout.
        """
        try:
            value = self.decode(data)
            found = self.layout_of(value)
            fields = self._today(value, found)
            self.check({name: fields[name] for name in self.names})
        except RecordError:
            raise
        except (BmsotaError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"{self.title}: damaged ({error})", layout=None) from error
        return fields, found

    def _today(self, value: Any, found: Any) -> dict[str, Any]:
        if found == self.layout:
            return {name: field for name, field in value.items() if name != LAYOUT}
        if isinstance(found, int) and found > self.layout:
            raise RecordError(
                f"{self.title}: layout {found} is newer than this version reads ({self.layout})", layout=found
            )
        return self.older[found].parse(value)

    def dumps(self, fields: Mapping[str, Any], layout: int) -> bytes:
        """Encode in one of the known layouts."""
        if layout in self.older:
            built = self.older[layout].build(fields)
            return built if isinstance(built, bytes) else _cbor.encode(built)
        return _cbor.encode({**fields, LAYOUT: layout})


class RecordStore(Protocol):
    """What keeps records: a `bmsota.boot.BootStore`, which see."""

    @property
    def is_spare_running(self) -> bool: ...
    def get_record(self, name: str) -> bytes | None: ...
    def put_record(self, name: str, value: bytes) -> None: ...
    def delete_record(self, name: str) -> None: ...


class StoredRecord:
    """One record of a boot store."""

    def __init__(self, store: RecordStore, name: str, form: RecordFormat) -> None:
        """Nothing is read yet.

        Args:
            store: where it is kept.
            name: the record's name there.
            form: its layouts.
        """
        self._store = store
        self._name = name
        self._form = form
        self._unknown: dict[str, Any] = {}
        self._forget()

    def load(self) -> dict[str, Any] | None:
        """Its fields; None if there is no such record.

        Raises:
            RecordError: damaged, or of a newer layout; the next `save` replaces it.
        """
        self._forget()
        data = self._store.get_record(self._name)
        if data is None:
            return None
        fields, self._found = self._form.loads(data)
        self._unknown = {name: value for name, value in fields.items() if name not in self._form.names}
        return {name: fields[name] for name in self._form.names}

    def save(self, fields: Mapping[str, Any]) -> None:
        """Keep *fields*, and beside them what was found and is not known."""
        layout = self._found if self._store.is_spare_running else self._form.layout
        self._store.put_record(self._name, self._form.dumps({**self._unknown, **fields}, layout))

    def delete(self) -> None:
        """Forget it, if there is one."""
        self._store.delete_record(self._name)
        self._unknown = {}

    def _forget(self) -> None:
        self._unknown = {}
        # Where nothing was found, the image before can be no wiser than the oldest layout.
        self._found = min(self._form.older, default=self._form.layout)
