"""One way to write JSON: sorted keys, no spaces, finite numbers, whole numbers kept whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from gaelp.core.errors import StoreError

Json = dict[str, object]


def canonical(payload: Mapping[str, object], what: str) -> str:
    """`payload` as canonical JSON text: equal values give equal bytes.

    Raises StoreError naming `what` and the key for NaN, infinities, keys that are not text and anything that is
    not JSON (NumPy scalars included: convert them where their meaning is known).
    """
    _check(payload, what)
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parsed(text: str, what: str) -> Json:
    """The object in `text`. Raises StoreError when it is no JSON object."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(f"{what} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise StoreError(f"{what} holds {type(found).__name__}, expected a JSON object.")
    return found


def _check(value: object, where: str) -> None:
    # Exact types: numpy.float64 is a float to isinstance, and a bool would pass for an int.
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return
    if kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise StoreError(f"{where} is {value}: only finite numbers are stored.")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if type(key) is not str:
                raise StoreError(f"{where} has the key {key!r}: keys are text.")
            _check(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]")
    else:
        raise StoreError(f"{where} is a {kind.__name__}, which JSON does not know: {value!r}.")
