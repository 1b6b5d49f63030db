"""The errors a user can meet; each carries one clear sentence and knows its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GaelpError(Exception):
    """Something the user can act on: shown as one sentence, exit code 2."""

    exit_code = 2


class BadInput(GaelpError):
    """A file, line, key or value that cannot be used as given."""


class UnusableBatch(GaelpError):
    """Episodes from which no gradient may be taken; the message names field and episode."""


class ShapeError(GaelpError):
    """Arrays whose shapes do not fit; broadcasting here would learn nonsense quietly."""


class MoneyError(GaelpError):
    """An amount that is not money, or a movement of money that nobody granted."""


class NotGranted(MoneyError):
    """A reservation that the grants do not cover. Nothing was sent."""


class PlatformError(GaelpError):
    """The ad platform refused, failed or did not answer; the outcome may be unknown."""


class StoreError(GaelpError):
    """The store's contents are missing, altered or of another version."""


class PhaseFailed(GaelpError):
    """A gate or guard said FAIL; the journey stops here."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
