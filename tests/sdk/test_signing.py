# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pocketrec.errors import ConfigError, IntegrityError
from pocketrec.signing import PublicKey, SigningKey

# RFC 8032, section 7.1, test 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = bytes.fromhex("72")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


class TestSignatures:
    def test_signature_is_the_one_of_the_standard(self) -> None:
        """The published Ed25519 test vector comes out."""
        key = SigningKey(SEED)

        assert key.public.raw == PUBLIC
        assert key.sign(MESSAGE) == SIGNATURE
        assert key.signer()(MESSAGE) == SIGNATURE

    def test_genuine_signature_is_accepted(self) -> None:
        """Verification says nothing when all is well."""
        PublicKey(PUBLIC).verify(MESSAGE, SIGNATURE)

    @pytest.mark.parametrize(
        ("message", "signature"),
        [
            pytest.param(b"other", SIGNATURE, id="other message"),
            pytest.param(MESSAGE, SIGNATURE[:-1] + b"\x01", id="flipped bit"),
            pytest.param(MESSAGE, SIGNATURE[:63], id="truncated"),
            pytest.param(MESSAGE, b"", id="empty"),
        ],
    )
    def test_anything_else_is_refused(self, message: bytes, signature: bytes) -> None:
        """A signature that does not fit is an integrity error."""
        with pytest.raises(IntegrityError, match="does not match"):
            PublicKey(PUBLIC).verify(message, signature)

    def test_another_key_is_refused(self) -> None:
        """A good signature by somebody else does not count."""
        with pytest.raises(IntegrityError):
            SigningKey.generate().public.verify(MESSAGE, SIGNATURE)

    def test_key_id_is_the_head_of_the_digest(self) -> None:
        """A key is named by 8 bytes of the SHA-256 of its raw bytes."""
        assert PublicKey(PUBLIC).key_id == hashlib.sha256(PUBLIC).digest()[:8]

    def test_keys_of_other_lengths_are_refused(self) -> None:
        """A key that is too short never comes to be."""
        with pytest.raises(ConfigError, match="32 bytes, got 31"):
            PublicKey(PUBLIC[:31])
        with pytest.raises(ConfigError, match="32 bytes, got 33"):
            SigningKey(SEED + b"\x00")


class TestKeyFiles:
    def test_key_survives_the_disk(self, tmp_path: Path) -> None:
        """A saved key signs as before, and nobody else may read it."""
        key, path = SigningKey.generate(), tmp_path / "key.pem"

        key.save(path)

        assert SigningKey.load(path) == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_key_is_never_overwritten(self, tmp_path: Path) -> None:
        """Saving onto an existing file fails and leaves it alone."""
        first, path = SigningKey.generate(), tmp_path / "key.pem"
        first.save(path)

        with pytest.raises(FileExistsError):
            SigningKey.generate().save(path)

        assert SigningKey.load(path) == first

    def test_secret_is_not_shown(self) -> None:
        """A key in a log or traceback does not give its secret away."""
        assert repr(SigningKey(SEED)) == "SigningKey()"

    def test_file_without_a_key_is_refused(self) -> None:
        """Bytes that are no PEM are the caller's mistake."""
        with pytest.raises(ConfigError, match="PKCS#8 PEM"):
            SigningKey.from_pem(b"not a key")

    def test_key_of_another_kind_is_refused(self) -> None:
        """A well-formed key for another algorithm is named as such."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

        with pytest.raises(ConfigError, match="expected an Ed25519 private key"):
            SigningKey.from_pem(pem)


def test_importing_loads_no_cryptography() -> None:
    """The module costs nothing until a key is used."""
    code = "import pocketrec.signing, sys; sys.exit('cryptography' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
