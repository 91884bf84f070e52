# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.faulty_storage import Fault, faulty
from tests.cloud.delivery.tuf_clients import download
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Timestamp
from tuf.ngclient import Updater

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.repository import refresh_timestamp, renew_repository
from pocketrec_cloud.delivery.publishing.rotation import Rotation, rotate_key
from pocketrec_quantization.bundle import decode_manifest

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

DAY_S = 24 * 3600


def rotate(deployment: Deployment, role: Role, *, keep_old: bool = False) -> Rotation:
    """Replace a key of the deployment."""
    return rotate_key(
        deployment.storage, deployment.keys, role, keep_old=keep_old, clock=deployment.clock
    )


def key_id(deployment: Deployment, role: Role) -> str:
    """Return the id of the key that lies in the folder."""
    return KeyFolder(deployment.keys).load(role).public.key_id.hex()


def directors(client: Updater) -> list[str]:
    """Return the ids of the keys that may sign plans, as a device learns them."""
    return [entry["key_id"] for entry in json.loads(download(client, "director.json"))["keys"]]


class TestRotation:
    @pytest.mark.parametrize("role", list(Role))
    def test_devices_follow(self, role: Role, deployment: Deployment) -> None:
        """A device that knows the first root gets what was published before and after."""
        before = key_id(deployment, role)
        deployment.tuf_client().refresh()

        rotate(deployment, role)

        assert key_id(deployment, role) != before
        assert decode_manifest(download(deployment.tuf_client(), "demo/manifest.pb")).version == 1
        deployment.publish(deployment.bundle(version=2))
        deployment.clock.now_s += 0.8 * DAY_S
        assert refresh_timestamp(deployment.storage, deployment.keys, deployment.clock.now_s)
        client = deployment.tuf_client()
        assert decode_manifest(download(client, "demo/manifest.pb")).version == 2
        assert directors(client) == [key_id(deployment, Role.DIRECTOR)]

    @pytest.mark.parametrize("role", list(Role))
    def test_old_key_is_kept_out_of_the_way(self, role: Role, deployment: Deployment) -> None:
        """It is moved, not deleted, and readable by its owner only."""
        old = KeyFolder(deployment.keys).load(role)

        rotation = rotate(deployment, role)

        assert rotation.key == KeyFolder(deployment.keys).path(role)
        assert rotation.retired.parent == deployment.keys / "retired"
        assert rotation.retired.read_bytes() == old.to_pem()
        assert stat.S_IMODE(rotation.retired.stat().st_mode) == 0o600
        assert not list(deployment.keys.rglob("*.next.pem"))

    def test_root_is_replaced_again_and_again(self, deployment: Deployment) -> None:
        """A device that was away for all of it follows step by step."""
        versions = [rotate(deployment, Role.ROOT).root_version for _ in range(3)]

        assert versions == [2, 3, 4]
        deployment.tuf_client().refresh()

    def test_stolen_key_signs_nothing_any_more(self, deployment: Deployment) -> None:
        """What the old timestamp key signs is refused by devices."""
        old = KeyFolder(deployment.keys).signer(Role.TIMESTAMP)
        rotate(deployment, Role.TIMESTAMP)
        forged = Metadata[Timestamp].from_bytes(deployment.layout.timestamp.read_bytes())
        forged.signed.version += 1
        forged.sign(old)
        deployment.layout.timestamp.write_bytes(forged.to_bytes())

        with pytest.raises(RepositoryError):
            deployment.tuf_client().refresh()


class TestDirector:
    def test_old_key_may_stay_for_a_while(self, deployment: Deployment) -> None:
        """Both keys are named, the new one first, until everything is renewed."""
        old = key_id(deployment, Role.DIRECTOR)

        rotate(deployment, Role.DIRECTOR, keep_old=True)
        both = directors(deployment.tuf_client())
        rotate(deployment, Role.SNAPSHOT)
        still = directors(deployment.tuf_client())
        renew_repository(deployment.storage, deployment.keys, clock=deployment.clock)

        new = key_id(deployment, Role.DIRECTOR)
        assert both == still == [new, old]
        assert directors(deployment.tuf_client()) == [new]

    def test_only_the_director_has_such_a_while(self, deployment: Deployment) -> None:
        """TUF roles have one key each."""
        with pytest.raises(ConfigError, match="keep_old"):
            rotate(deployment, Role.TARGETS, keep_old=True)


class TestInterruption:
    @pytest.mark.parametrize("role", list(Role))
    @pytest.mark.parametrize("step", range(4))  # targets, snapshot, root, timestamp
    def test_rotation_can_be_repeated(self, step: int, role: Role, deployment: Deployment) -> None:
        """The same new key is used, and devices follow."""
        storage = faulty(deployment.artifacts, Fault(at=step))
        old = key_id(deployment, role)
        deployment.tuf_client().refresh()

        with pytest.raises(OSError, match="disk full"):
            rotate_key(storage, deployment.keys, role, clock=deployment.clock)
        made = KeyFolder(deployment.keys, incoming=role).load(role).public.key_id.hex()
        assert key_id(deployment, role) == old
        rotate(deployment, role)

        assert key_id(deployment, role) == made
        assert decode_manifest(download(deployment.tuf_client(), "demo/manifest.pb")).version == 1

    @pytest.mark.parametrize("role", [Role.ROOT, Role.DIRECTOR])
    def test_devices_do_not_suffer_meanwhile(self, role: Role, deployment: Deployment) -> None:
        """A new root key or director is no reason to refuse what was published before."""
        for step in range(4):
            storage = faulty(deployment.artifacts, Fault(at=step))
            with pytest.raises(OSError, match="disk full"):
                rotate_key(storage, deployment.keys, role, clock=deployment.clock)

            assert deployment.tuf_client().get_targetinfo("demo/manifest.pb") is not None

    def test_interrupted_move_can_be_repeated(self, deployment: Deployment) -> None:
        """The retired copy is there already, the key in its place is still the old one."""
        folder = KeyFolder(deployment.keys)
        old = folder.load(Role.TARGETS)
        retired = deployment.keys / "retired" / f"targets-{old.public.key_id.hex()}.pem"
        retired.parent.mkdir()
        old.save(retired)

        assert rotate(deployment, Role.TARGETS).retired == retired

        deployment.tuf_client().refresh()

    def test_nothing_is_replaced_without_a_key_to_come(self, deployment: Deployment) -> None:
        """The present key cannot be put away for nothing."""
        with pytest.raises(ConfigError, match="incoming"):
            KeyFolder(deployment.keys).complete_replacement()
