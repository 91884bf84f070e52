# SPDX-License-Identifier: Apache-2.0
"""What may stand after --chaos."""

from __future__ import annotations

import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.operations.faults import ChaosSettings, parse_chaos


class TestParseChaos:
    @pytest.mark.parametrize(
        ("text", "settings"),
        [
            ("delay=200ms", ChaosSettings(delay_s=(0.2, 0.2))),
            ("delay=50ms..1.5s", ChaosSettings(delay_s=(0.05, 1.5))),
            (
                "drop=0.05, corrupt=0.01,stale=on,seed=7",
                ChaosSettings(drop=0.05, corrupt=0.01, stale=1.0, seed=7),
            ),
            ("stale=off", ChaosSettings()),
        ],
    )
    def test_known_faults(self, text: str, settings: ChaosSettings) -> None:
        """Times have units, shares are numbers or a switch."""
        assert parse_chaos(text) == settings

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "at least one fault"),
            ("seed=3", "at least one fault"),
            ("flood=1", "'flood=1'"),
            ("drop", "'drop'"),
            ("drop=0.1,drop=0.2", "at most once"),
            ("drop=1.5", "from 0 to 1"),
            ("drop=nan", "from 0 to 1"),
            ("drop=much", "'much'"),
            ("delay=200", "'200'"),
            ("delay=2s..1s", "least first"),
            ("delay=61s", "60 s"),
            ("drop=0.1,seed=-1", "'-1'"),
        ],
    )
    def test_others_are_refused(self, text: str, match: str) -> None:
        """The message says what was wrong."""
        with pytest.raises(ConfigError, match=match):
            parse_chaos(text)

    def test_text_of_settings(self) -> None:
        """Settings read back as they are written."""
        settings = ChaosSettings(delay_s=(0.05, 0.2), drop=0.1, stale=1.0, seed=3)

        assert parse_chaos(str(settings)) == settings
