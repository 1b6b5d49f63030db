"""Typed access to the payload of an event; a field that is missing or of another kind stops the reading."""

from __future__ import annotations

from gaelp.core.errors import StoreError
from gaelp.store.canonical import Json
from gaelp.store.log import Event


class Fields:
    """The fields of one JSON object, and where it stands for the error message."""

    def __init__(self, told: Json, where: str) -> None:
        self.told = told
        self._where = where

    @classmethod
    def of(cls, event: Event) -> Fields:
        """The payload of an event."""
        return cls(event.payload, f"event {event.seq} ({event.kind})")

    def value(self, key: str) -> object:
        """Whatever stands there. Raises StoreError when nothing does."""
        if key not in self.told:
            raise StoreError(f"{self._where} has no {key!r}: it was written by another version of gaelp.")
        return self.told[key]

    def text(self, key: str) -> str:
        found = self.value(key)
        if not isinstance(found, str):
            raise self._wrong(key, found, "text")
        return found

    def whole(self, key: str) -> int:
        found = self.value(key)
        if not isinstance(found, int) or isinstance(found, bool):
            raise self._wrong(key, found, "a whole number")
        return found

    def sum(self, key: str) -> int:
        """The sum of a list of whole numbers."""
        total = 0
        for found in self.items(key):
            if not isinstance(found, int) or isinstance(found, bool):
                raise self._wrong(key, found, "whole numbers")
            total += found
        return total

    def number(self, key: str) -> float:
        found = self.value(key)
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self._wrong(key, found, "a number")
        return float(found)

    def yes(self, key: str) -> bool:
        found = self.value(key)
        if not isinstance(found, bool):
            raise self._wrong(key, found, "true or false")
        return found

    def items(self, key: str) -> list[object]:
        found = self.value(key)
        if not isinstance(found, list):
            raise self._wrong(key, found, "a list")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(str(found) for found in self.items(key))

    def inner(self, key: str) -> Fields:
        """The object below `key`."""
        return self._object(self.value(key), key)

    def inners(self, key: str) -> list[Fields]:
        """The list of objects below `key`."""
        return [self._object(found, f"{key}[{i}]") for i, found in enumerate(self.items(key))]

    def _object(self, found: object, key: str) -> Fields:
        if not isinstance(found, dict):
            raise self._wrong(key, found, "an object")
        return Fields(found, f"{self._where}.{key}")

    def _wrong(self, key: str, found: object, expected: str) -> StoreError:
        return StoreError(f"{self._where}: {key} is {found!r}, expected {expected}.")
