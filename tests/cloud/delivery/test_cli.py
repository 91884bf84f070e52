# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.cloud.delivery.conftest import add_extractor

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    RollbackError,
    StoreError,
)
from pocketrec_cloud.delivery.publishing.cli import (
    bundle_promote,
    bundle_publish,
    bundle_withdraw,
)
from pocketrec_cloud.delivery.publishing.keys_cli import keys_init, keys_renew, keys_rotate
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.targets import ModelLine, find_line
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole
from pocketrec_cloud.delivery.serving.cli import serve
from pocketrec_cloud.delivery.serving.config import AdminListener
from pocketrec_cloud.delivery.testing import running_server
from pocketrec_quantization.testing import (
    tiny_personal_planner,
)

if TYPE_CHECKING:
    import click
    from tests.cloud.delivery.conftest import Deployment


def run(command: click.Command, *args: object) -> dict[str, object]:
    """Run a command with ``--json -`` and return what it printed."""
    result = CliRunner().invoke(command, [*map(str, args), "--json", "-"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    printed: dict[str, object] = json.loads(result.stdout)
    return printed


def folders(deployment: Deployment) -> list[object]:
    """Return the options that every command takes."""
    return ["--store", deployment.store, "--keys", deployment.keys]


@pytest.fixture
def sensitivity(published_template: Deployment) -> Path:
    """A file of sensitivities; every test model has the same layers."""
    return next(published_template.layout.planners.iterdir())


class TestKeysInit:
    def test_root_of_trust_is_named(self, tmp_path: Path) -> None:
        """The command says which file an app has to be built with."""
        result = run(keys_init, "--store", tmp_path / "s", "--keys", tmp_path / "k")

        root = Path(str(result["root"])).read_bytes()
        assert result["root_sha256"] == hashlib.sha256(root).hexdigest()
        assert (tmp_path / "k" / "offline" / "root.pem").exists()

    def test_existing_keys_are_kept(self, tmp_path: Path, empty: Deployment) -> None:
        """A second store may be signed with the same keys."""
        before = (empty.keys / "offline" / "root.pem").read_bytes()

        run(keys_init, "--store", tmp_path / "second", "--keys", empty.keys)

        assert (empty.keys / "offline" / "root.pem").read_bytes() == before

    def test_incomplete_keys_are_left_alone(self, tmp_path: Path, empty: Deployment) -> None:
        """With some keys missing, none is replaced behind one's back."""
        (empty.keys / "offline" / "root.pem").unlink()

        with pytest.raises(StoreError, match="keys exist already"):
            run(keys_init, "--store", tmp_path / "second", "--keys", empty.keys)

    def test_existing_repository_is_kept(self, empty: Deployment) -> None:
        """A repository is made once."""
        with pytest.raises(StoreError, match="holds a repository already"):
            run(keys_init, *folders(empty))


class TestBundlePublish:
    def test_bundle_is_published(self, empty: Deployment, sensitivity: Path) -> None:
        """Folder in, publication out, digests named."""
        bundle = empty.bundle()

        result = run(bundle_publish, bundle.path, *folders(empty), "--sensitivity", sensitivity)

        assert result == {
            "model": "demo",
            "version": 1,
            "bundle_digest": bundle.digest.hex(),
            "model_digest": bundle.model_digest.hex(),
            "is_personal": False,
            "is_candidate": False,
        }
        assert "demo/manifest.pb" in read_publication(empty.artifacts).files

    def test_planner_of_another_bundle_is_refused(
        self, empty: Deployment, sensitivity: Path, tmp_path: Path
    ) -> None:
        """The command looks at the planner before it publishes anything."""
        bundle = empty.bundle()
        planner = tmp_path / "planner.safetensors"
        planner.write_bytes(tiny_personal_planner(bundle.manifest.layers, bytes(32)).to_bytes())
        options = ["--sensitivity", sensitivity, "--planner", planner]

        with pytest.raises(IncompatibleArtifactError, match="expected model_digest"):
            run(bundle_publish, bundle.path, *folders(empty), *options)
        assert "demo/manifest.pb" not in read_publication(empty.artifacts).files

    def test_planner_is_published_beside_its_bundle(
        self, empty: Deployment, sensitivity: Path, tmp_path: Path
    ) -> None:
        """It stays in the server's folder, under the bundle's digest, and is no target."""
        bundle = add_extractor(empty.bundle(), tmp_path / "personal")
        content = tiny_personal_planner(bundle.manifest.layers, bundle.model_digest).to_bytes()
        planner = tmp_path / "planner.safetensors"
        planner.write_bytes(content)
        options = ["--sensitivity", sensitivity, "--planner", planner]

        result = run(bundle_publish, bundle.path, *folders(empty), *options)

        assert result["is_personal"] is True
        assert empty.layout.personal_planner(bundle.digest).read_bytes() == content
        digest = hashlib.sha256(content).hexdigest()
        assert not empty.layout.target(digest).exists()

    def test_older_bundle_is_refused(self, deployment: Deployment, sensitivity: Path) -> None:
        """The command fails with the same error as the function."""
        path = deployment.bundle(version=1, seed=1).path

        with pytest.raises(RollbackError):
            run(bundle_publish, path, *folders(deployment), "--sensitivity", sensitivity)


def demo_line(deployment: Deployment) -> ModelLine:
    """Return what is published of the model "demo"."""
    return find_line(read_publication(deployment.artifacts).targets.signed, "demo")


class TestCandidates:
    def test_candidate_is_promoted(self, deployment: Deployment, sensitivity: Path) -> None:
        """Published beside the current bundle first, in its place then."""
        bundle = deployment.bundle(version=2)
        options = ["--sensitivity", sensitivity, "--candidate"]

        published = run(bundle_publish, bundle.path, *folders(deployment), *options)
        before = demo_line(deployment)
        promoted = run(bundle_promote, "demo", bundle.digest.hex(), *folders(deployment))

        assert published["is_candidate"] is True
        assert [listed.digest for listed in before.candidates] == [bundle.digest]
        assert promoted == {"model": "demo", "bundle_digest": bundle.digest.hex()}
        assert demo_line(deployment).current == bundle.digest

    def test_candidate_is_withdrawn(self, deployment: Deployment) -> None:
        """It is gone, the current bundle stays."""
        bundle = deployment.bundle(version=2)
        deployment.publish(bundle, is_candidate=True)

        run(bundle_withdraw, "demo", bundle.digest.hex(), *folders(deployment))

        assert [listed.version for listed in demo_line(deployment).bundles] == [1]

    @pytest.mark.parametrize("digest", ["", "ab", "zz" * 32])
    def test_what_is_no_digest_is_refused(self, digest: str, deployment: Deployment) -> None:
        """The message says what is expected."""
        with pytest.raises(ConfigError, match="64 hex digits"):
            run(bundle_promote, "demo", digest, *folders(deployment))

    @pytest.mark.parametrize("command", [bundle_promote, bundle_withdraw])
    @pytest.mark.parametrize("places", [[], ["--store", "s", "--server", "host:1"]])
    def test_one_place_has_to_be_named(
        self, command: click.Command, places: list[str], deployment: Deployment
    ) -> None:
        """A store or a server, not both and not neither."""
        with pytest.raises(ConfigError, match="either --store or --server"):
            run(command, "demo", "00" * 32, "--keys", deployment.keys, *places)


class TestThroughAServer:
    def test_bundle_is_published_and_promoted(
        self, deployment: Deployment, sensitivity: Path, tmp_path: Path
    ) -> None:
        """A token and the offline keys are all that a publisher's machine needs."""
        bundle = deployment.bundle(version=2)
        offline = tmp_path / "publisher"
        offline.mkdir()
        (deployment.keys / "offline").rename(offline / "offline")
        token = tmp_path / "token"
        token.write_text("secret")
        deployment.database.put_admin(
            AdminRecord(
                name="paula",
                role=AdminRole.PUBLISHER,
                token_sha256=hashlib.sha256(b"secret").digest(),
                created_at_s=0,
            )
        )
        config = deployment.config(admin=AdminListener())

        with running_server(config, database=deployment.database) as listening:
            there = ["--server", listening.admin_address, "--token-file", token, "--keys", offline]
            options = ["--sensitivity", sensitivity, "--candidate"]
            run(bundle_publish, bundle.path, *there, *options)
            candidates = demo_line(deployment).candidates
            run(bundle_promote, "demo", bundle.digest.hex(), *there)

        assert [listed.digest for listed in candidates] == [bundle.digest]
        assert demo_line(deployment).current == bundle.digest


class TestKeysRotate:
    def test_new_and_old_key_are_named(self, deployment: Deployment) -> None:
        """The command says where both lie."""
        before = (deployment.keys / "online" / "director.pem").read_bytes()

        result = run(keys_rotate, *folders(deployment), "--role", "director", "--keep-old")

        assert result["root_version"] == 2
        assert Path(str(result["retired"])).read_bytes() == before
        assert Path(str(result["key"])).read_bytes() != before

    def test_it_says_whom_to_bring_the_key(self, deployment: Deployment) -> None:
        """A server has to get a new online key; an offline one stays where it is."""
        told = {
            role: CliRunner()
            .invoke(keys_rotate, [*map(str, folders(deployment)), "--role", role])
            .stdout
            for role in ("timestamp", "root")
        }

        assert "copy it to every server" in told["timestamp"]
        assert "copy it" not in told["root"]


def test_keys_renew_names_the_new_root(deployment: Deployment) -> None:
    """Renewing signs the next version of the root metadata."""
    assert run(keys_renew, *folders(deployment)) == {"root_version": 2}


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key", "--tls-client-ca"])
def test_half_a_certificate_is_refused(deployment: Deployment, option: str) -> None:
    """A certificate without its key, or the other way round, serves nobody."""
    file = deployment.keys / "online" / "director.pem"

    with pytest.raises(ConfigError, match="a certificate and its key together"):
        CliRunner().invoke(
            serve, [*map(str, folders(deployment)), option, str(file)], catch_exceptions=False
        )
