# SPDX-License-Identifier: Apache-2.0
"""What works in environments that hold no more than one extra."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketrec.cli import ExitCode
from pocketrec_quantization.bundle import write_bundle
from pocketrec_quantization.testing import tiny_manifest, tiny_parts

Installation = Callable[[str], Path]

CLOUD_ONLY = ("torch", "pandas", "sqlalchemy", "onnx", "onnxscript", "pyarrow", "executorch")


def run(python: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run another environment's Python, which sees nothing of this one."""
    return subprocess.run(
        [str(python), "-I", "-W", "error", *args], capture_output=True, text=True, check=False
    )


def print_of(python: Path, code: str) -> str:
    """Run code and return what it printed; fail with its traceback."""
    result = run(python, "-c", code)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny bundle without graphs."""
    write_bundle(tmp_path / "bundle", tiny_manifest(), tiny_parts())
    return tmp_path / "bundle"


class TestBase:
    def test_artifacts_can_be_looked_into(
        self, make_installation: Installation, bundle: Path
    ) -> None:
        """Without any extra, a bundle can be inspected and verified."""
        python = make_installation("")

        for command in ("inspect", "verify"):
            result = run(python, "-m", "pocketrec", "bundle", command, str(bundle))
            assert (result.returncode, result.stderr) == (0, "")

    @pytest.mark.parametrize("command", ["serve", "train"])
    def test_a_missing_extra_is_named(self, make_installation: Installation, command: str) -> None:
        """A command of another extra says which pip command brings it."""
        result = run(make_installation(""), "-m", "pocketrec", command)

        assert result.returncode == ExitCode.BACKEND
        assert result.stderr.endswith("run: pip install 'pocketrec[cloud]'\n")

    def test_a_missing_backend_is_named(
        self, make_installation: Installation, bundle: Path
    ) -> None:
        """A runtime without its backend's library says which pip command brings it."""
        code = (
            "from pocketrec.errors import MissingExtraError\n"
            "from pocketrec_device import Runtime\n"
            f"runtime = Runtime.create({str(bundle.parent / 'store')!r}, model='tiny')\n"
            "try:\n"
            f"    runtime.bootstrap({str(bundle)!r})\n"
            "except MissingExtraError as error:\n"
            "    print(error)"
        )

        assert "pocketrec[device]" in print_of(make_installation(""), code)


class TestDevice:
    def test_the_clouds_libraries_are_absent(self, make_installation: Installation) -> None:
        """The extra "device" installs neither torch nor anything else of the cloud's."""
        code = (
            "import importlib.util\n"
            f"print([n for n in {CLOUD_ONLY} if importlib.util.find_spec(n) is not None])"
        )

        assert print_of(make_installation("device"), code) == "[]"

    def test_importing_loads_neither_grpc_nor_the_cloud(
        self, make_installation: Installation
    ) -> None:
        """The package is imported without gRPC, which waits for the first sync."""
        code = (
            "import sys, pocketrec_device\n"
            "print({'grpc', 'tuf', 'torch', 'pocketrec_cloud'} & set(sys.modules))"
        )

        assert print_of(make_installation("device"), code) == "set()"

    def test_a_packaged_bundle_ranks(self, make_installation: Installation, bundle: Path) -> None:
        """A bundle that came with the app is installed and ranks, offline."""
        code = (
            "from pocketrec_device import Runtime\n"
            f"runtime = Runtime.create({str(bundle.parent / 'store')!r}, model='tiny',"
            " backend='numpy')\n"
            f"runtime.bootstrap({str(bundle)!r})\n"
            "items = runtime.rerank(['absent'], k=1).items\n"
            "print(items)"
        )

        assert "absent" in print_of(make_installation("device"), code)


class TestServer:
    def test_serves_without_torch(self, make_installation: Installation, tmp_path: Path) -> None:
        """The extra for servers makes keys and serves, and has nothing that trains."""
        python = make_installation("server")
        folders = ["--store", str(tmp_path / "store"), "--keys", str(tmp_path / "keys")]
        made = run(python, "-m", "pocketrec", "keys", "init", *folders)
        assert made.returncode == ExitCode.OK, made.stderr

        with subprocess.Popen(
            [str(python), "-I", "-m", "pocketrec", "serve", *folders, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            line = server.stdout.readline()
            server.terminate()

        assert line.startswith("listening on 127.0.0.1:")
        assert server.returncode == ExitCode.OK
        code = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('pyarrow'))"
        assert print_of(python, code) == "None None"
