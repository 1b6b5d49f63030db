"""`gaelp ladder`: what is refused before anything is played."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaelp.cli.ladder_command import ladder_command
from gaelp.core.errors import BadInput


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"suite": "fatigue"}, "no suite 'fatigue'.*Did you mean 'fatigue-cpa'"),
        ({"suite": "gsp", "processes": 0}, "--processes is 0, expected at least 1"),
        ({"suite": "gsp", "html": Path("nowhere/at/all.html")}, "--html: there is no folder"),
        ({"suite": "gsp", "worlds": 5}, "--worlds is 5, expected at least 20"),
    ],
)
def test_what_cannot_be_climbed_is_refused_in_one_sentence(asked, said):
    with pytest.raises(BadInput, match=said):
        ladder_command(**asked)
