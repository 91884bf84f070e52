# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result

from pocketrec.errors import ConfigError, StoreError
from pocketrec_device import Runtime, cli

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment

    from pocketrec_quantization.bundle import BundleFolder


def run(command: click.Command, *arguments: object, text: str | None = None) -> Result:
    """Run a command; errors come out as they are."""
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(command, words, input=text, catch_exceptions=False)


def run_json(command: click.Command, *arguments: object) -> dict[str, Any]:
    """Run a command and return what it prints as JSON."""
    result: dict[str, Any] = json.loads(run(command, *arguments, "--json", "-").stdout)
    return result


@pytest.fixture
def store(tmp_path: Path, bundle: BundleFolder) -> Path:
    """A store with version 1, made by the command."""
    path = tmp_path / "device"
    run(cli.bootstrap, bundle.path, "--store", path, "--model", "demo", "--backend", "numpy")
    return path


class TestRerank:
    def test_ranks_lists_from_the_command_line(self, store: Path) -> None:
        """The table names the best candidates with their scores."""
        arguments = ["--store", store, "--history", "a,b", "--candidates", "c,d,e", "-k", 2]

        shown = run(cli.rerank, *arguments).stdout
        result = run_json(cli.rerank, *arguments)

        assert len(result["items"]) == 2
        assert all(item in shown for item in result["items"])
        assert result["scores"] == sorted(result["scores"], reverse=True)
        assert result["n_events_known"] == 2

    def test_an_id_is_never_taken_for_markup(self, store: Path) -> None:
        """Brackets are part of an id, and reach the table as they are."""
        shown = run(cli.rerank, "--store", store, "--candidates", "[/b],[red]x").stdout

        assert "[/b]" in shown
        assert "[red]x" in shown

    def test_only_line_breaks_separate_ids_in_a_file(self, tmp_path: Path) -> None:
        """Ids may hold any other character; a carriage return belongs to the break."""
        path = tmp_path / "ids"
        path.write_bytes("a\u2028b\r\n\x0bc\n".encode())

        assert cli.read_ids(f"@{path}") == ["a\u2028b", "\x0bc"]

    def test_reads_lists_from_files(self, store: Path, tmp_path: Path) -> None:
        """A file holds one id per line."""
        (tmp_path / "history").write_text("a\nb\n")
        (tmp_path / "candidates").write_text("c\nd\n\n")
        lists = ["--history", f"@{tmp_path / 'history'}"]
        lists += ["--candidates", f"@{tmp_path / 'candidates'}"]

        from_files = run_json(cli.rerank, "--store", store, *lists)

        assert from_files == run_json(
            cli.rerank, "--store", store, "--history", "a,b", "--candidates", "c,d"
        )

    def test_unknown_candidates_have_no_score_in_json(self, store: Path) -> None:
        """JSON knows no infinity."""
        result = run_json(cli.rerank, "--store", store, "--history", "a", "--candidates", "?,b")

        assert result["items"] == ["b", "?"]
        assert result["scores"][1] is None

    def test_a_list_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        """A wrong file is named, with what was expected."""
        path = tmp_path / "binary"
        path.write_bytes(b"\xff\xfe")

        with pytest.raises(ConfigError, match="UTF-8"):
            cli.read_ids(f"@{path}")


class TestSyncing:
    def test_makes_a_store_and_fills_it(
        self, deployment: Deployment, target: str, tmp_path: Path
    ) -> None:
        """One command takes a new device to a working pair."""
        root = tmp_path / "root.json"
        root.write_bytes(deployment.root)
        arguments = [target, "--store", tmp_path / "device", "--model", "demo", "--root", root]

        report = run_json(cli.sync, *arguments, "--subject", "ann")

        assert (report["bundle_version"], report["plan_version"]) == (1, 1)
        shown = run(cli.status, "--store", tmp_path / "device").stdout
        assert "ann" in shown
        assert "global v1" in shown

        again = run(cli.sync, *arguments, "--subject", "ann", "--history", "nowhere")
        assert again.stderr == "1 of 1 events are not in the item table\n"

    @pytest.mark.parametrize("subject", ["a\nb", "\udcff", "x" * 129])
    def test_a_subject_that_is_no_text_is_refused(
        self, deployment: Deployment, tmp_path: Path, subject: str
    ) -> None:
        """Before anybody is called: 127.0.0.1:1 would not answer."""
        root = tmp_path / "root.json"
        root.write_bytes(deployment.root)
        words = ["127.0.0.1:1", "--store", tmp_path / "d", "--model", "demo", "--root", root]

        with pytest.raises(ConfigError, match="subject"):
            run(cli.sync, *words, "--subject", subject)

    def test_half_a_client_certificate_is_refused(
        self, deployment: Deployment, tmp_path: Path
    ) -> None:
        """A certificate without its key cannot be shown to a server."""
        root = tmp_path / "root.json"
        root.write_bytes(deployment.root)
        words = ["127.0.0.1:1", "--store", tmp_path / "d", "--model", "demo", "--root", root]

        with pytest.raises(ConfigError, match="belong together"):
            run(cli.sync, *words, "--tls-cert", root)

    def test_a_root_without_a_model_is_refused(self, tmp_path: Path) -> None:
        """A trust anchor belongs to the making of a store."""
        root = tmp_path / "root.json"
        root.write_bytes(b"{}")

        with pytest.raises(ConfigError, match="--model"):
            run(cli.sync, "127.0.0.1:1", "--store", tmp_path / "device", "--root", root)


class TestStatus:
    def test_shows_what_is_installed(self, store: Path) -> None:
        """The status names model and plan, as a table and as JSON."""
        assert "uniform-8 v0" in run(cli.status, "--store", store).stdout
        assert run_json(cli.status, "--store", store)["current"]["bundle_version"] == 1

    def test_of_nothing_is_an_error(self, tmp_path: Path) -> None:
        """A folder that is no store is named."""
        with pytest.raises(StoreError, match="no store at"):
            run(cli.status, "--store", tmp_path / "nowhere")


def test_rollback_needs_a_previous_pair(store: Path) -> None:
    """With one pair there is nothing to go back to."""
    with pytest.raises(StoreError, match="no previous pair"):
        run(cli.rollback, "--store", store)


class TestRemarks:
    def test_unknown_ids_are_remarked_on_stderr(self, tmp_path: Path, bundle: BundleFolder) -> None:
        """A ranking does not show that events or candidates were unknown; a remark does."""
        with Runtime.create(tmp_path / "store", model=bundle.manifest.model_name) as runtime:
            runtime.bootstrap(bundle.path)
        known = bundle.read_items().item_ids
        command = ["--store", str(tmp_path / "store"), "--json", "-", "-k", "5"]

        done = CliRunner().invoke(
            cli.rerank, [*command, "--history", f"{known[0]}, x", "--candidates", f"y, {known[1]}"]
        )
        none = CliRunner().invoke(cli.rerank, [*command, "--history", "x", "--candidates", "y"])

        assert json.loads(done.stdout)["items"] == [known[1], "y"]
        assert "1 of 2 events are not in the item table" in done.stderr
        assert "1 of these candidates are not in the item table" in done.stderr
        assert "stay in the order given" in none.stderr
