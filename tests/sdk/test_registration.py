# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

from pocketrec.registration import device_id_of, registration_message

KEY, CHALLENGE = bytes(range(32)), b"challenge"


class TestMessage:
    def test_is_what_the_protocol_says(self) -> None:
        """The domain, a zero byte, the key and the challenge."""
        expected = b"pocketrec.v1.DeviceService/Register\x00" + KEY + CHALLENGE

        assert registration_message(KEY, CHALLENGE) == expected


class TestDeviceId:
    def test_is_half_of_the_digest(self) -> None:
        """Two keys with one name are beyond reach."""
        assert device_id_of(KEY) == hashlib.sha256(KEY).hexdigest()[:32]
        assert device_id_of(bytes(32)) == "66687aadf862bd776c8fc18b8e9f8e20"
