# SPDX-License-Identifier: Apache-2.0
"""Dockerfile, compose file, Prometheus rules: against schemas, our commands and our metrics.

Nothing here starts a container; what can be wrong without one is found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.serving.cli import serve

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The Dockerfile's instructions; the parser writes into its folder, so it gets a copy."""
    folder = tmp_path_factory.mktemp("dockerfile")
    parser = DockerfileParser(str(folder))
    parser.content = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return [each for each in parser.structure if each["instruction"] != "COMMENT"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return document


def values(instructions: list[dict[str, str]], name: str) -> list[str]:
    """Return what follows each instruction of a name."""
    return [each["value"] for each in instructions if each["instruction"] == name]


def final_stage(instructions: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the instructions from the last FROM on."""
    starts = [n for n, each in enumerate(instructions) if each["instruction"] == "FROM"]
    return instructions[starts[-1] :]


def check_serve_words(words: list[str]) -> None:
    """Let the command parse a command line; files need not exist here."""
    known = {option: each for each in serve.params for option in each.opts}
    position = 0
    while position < len(words):
        option = known[words[position]]
        takes_value = not getattr(option, "is_flag", False)
        if takes_value and not hasattr(option.type, "exists"):
            option.type.convert(words[position + 1], option, None)
        position += 2 if takes_value else 1


class TestDockerfile:
    def test_instructions_are_known(self, instructions: list[dict[str, str]]) -> None:
        """Each line begins with an instruction; files come by COPY, never by ADD."""
        assert {each["instruction"] for each in instructions} <= {
            *("FROM", "WORKDIR", "RUN", "ENV", "COPY", "LABEL", "USER", "VOLUME", "EXPOSE"),
            *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
        }

    def test_images_are_pinned_slim_and_of_our_python(
        self, instructions: list[dict[str, str]]
    ) -> None:
        """Both stages start from the same slim image of a Python that we support."""
        images = {value.split()[0] for value in values(instructions, "FROM")}

        assert len(values(instructions, "FROM")) == 2
        assert len(images) == 1
        match = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", images.pop())
        assert match is not None
        assert f"Programming Language :: Python :: {match[1]}" in PROJECT["classifiers"]

    def test_sources_exist(self, instructions: list[dict[str, str]]) -> None:
        """Whatever is copied from here is here, and .dockerignore lets it through."""
        ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        sources = [
            source
            for value in values(instructions, "COPY")
            if not value.startswith("--from")
            for source in value.split()[:-1]
        ]

        assert sources
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore
        assert "*" in ignore

    def test_extras_exist(self, instructions: list[dict[str, str]]) -> None:
        """What pip is asked for is declared, and brings no torch."""
        (run,) = [value for value in values(instructions, "RUN") if "pip install" in value]
        match = re.search(r'"\.\[([a-z0-9,]+)\]"', run)
        assert match is not None
        extras = match[1].split(",")

        requirements = [
            requirement
            for extra in extras
            for requirement in PROJECT["optional-dependencies"][extra]
        ]
        assert requirements
        assert not [each for each in requirements if each.startswith(("torch", "pocketrec"))]

    def test_runs_as_nobody_in_particular(self, instructions: list[dict[str, str]]) -> None:
        """The server is not root, and its numbers need no user database to be checked."""
        (user,) = values(final_stage(instructions), "USER")

        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)

    def test_command_is_one_that_serve_understands(
        self, instructions: list[dict[str, str]]
    ) -> None:
        """The default command line names options of this release, in the form without a shell."""
        (entry,) = values(instructions, "ENTRYPOINT")
        (command,) = values(final_stage(instructions), "CMD")
        words = json.loads(command)

        assert json.loads(entry) == ["pocketrec"]
        assert words[0] == "serve"
        check_serve_words(words[1:])


class TestCompose:
    def test_schema(self) -> None:
        """The file is valid by the Compose Specification's own schema."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "check_jsonschema"),
                *("--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stdout

    def test_server_command(self, compose: dict[str, Any]) -> None:
        """The server's command line names options of this release."""
        words = compose["services"]["server"]["command"]

        assert words[0] == "serve"
        check_serve_words(words[1:])

    def test_mounted_files_exist_or_are_made_by_the_guide(self, compose: dict[str, Any]) -> None:
        """Each file of ours that is mounted is in the repository."""
        guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        sources = [
            volume.split(":")[0]
            for service in compose["services"].values()
            for volume in service.get("volumes", [])
            if volume.startswith("./")
        ]

        assert sources
        for source in sources:
            made = (ROOT / source).exists() or f"{Path(source).parts[0]}/" in guide
            assert made, source

    def test_images_are_pinned(self, compose: dict[str, Any]) -> None:
        """No service follows a tag that moves to another major release."""
        images = [
            service["image"] for service in compose["services"].values() if "build" not in service
        ]

        assert images
        assert all(re.search(r":v?\d", image) for image in images)

    def test_secrets_come_from_outside(self, compose: dict[str, Any]) -> None:
        """No password stands in the file."""
        environment = compose["services"]["postgres"]["environment"]

        assert environment["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


class TestPrometheus:
    def test_every_worker_is_scraped(self, compose: dict[str, Any]) -> None:
        """There is a target for the port of each server process."""
        words = compose["services"]["server"]["command"]
        n_workers = int(words[words.index("--workers") + 1])
        first_port = int(words[words.index("--metrics-port") + 1])
        config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))
        (job,) = config["scrape_configs"]

        assert job["static_configs"][0]["targets"] == [
            f"server:{first_port + worker}" for worker in range(n_workers)
        ]

    def test_rules_use_metrics_that_exist(self) -> None:
        """Each alert has a severity and a summary, and asks for numbers that the server has."""
        names = {
            name
            for family in Metrics().registry.collect()
            for name in (family.name, *(f"{family.name}_{end}" for end in ("total", "bucket")))
        }
        rules = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text(encoding="utf-8"))
        alerts = [rule for group in rules["groups"] for rule in group["rules"]]

        assert alerts
        for alert in alerts:
            assert set(re.findall(r"pocketrec_\w+", alert["expr"])) <= names, alert["alert"]
            assert alert["labels"]["severity"] in {"page", "ticket"}
            assert alert["annotations"]["summary"]
