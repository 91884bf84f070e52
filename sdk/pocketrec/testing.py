# SPDX-License-Identifier: Apache-2.0
"""A real delivery server for an app's tests, well or badly behaved.

::

    with CloudSimulator(bundle="build/bundle", chaos="delay=50ms,drop=0.1") as cloud:
        runtime = pocketrec_device.Runtime.create(folder, model="demo", root=cloud.root)
        runtime.sync(cloud.target)
        cloud.publish("build-2/bundle")
        cloud.push("--all", "--average-bits", "2.5")
        cloud.restart(chaos="corrupt=0.5")

Store, keys and signatures are real ones, in a temporary folder; the server is a process of its
own on the loopback, so nothing of it is imported into the app. It needs ``pocketrec[cloud]``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from pocketrec.errors import ConfigError, ServiceUnavailableError

__all__ = ["CloudSimulator"]

_POCKETREC = (sys.executable, "-m", "pocketrec")
_USAGE = 2  # the exit code for a command line that is wrong
_STOP_S = 20.0  # calls in flight get 10
_REGISTRATIONS_PER_MINUTE = 100_000  # every device of a test has the same address


class CloudSimulator:
    """A delivery server with a repository of its own; use it in ``with``, or start and stop it.

    Args:
        bundle: Folder of a bundle to publish first; None = nothing is published yet.
        chaos: Faults to make, such as "delay=50ms..200ms,drop=0.1,corrupt=0.01,stale=on,seed=7"
            (docs/operations.md); empty = none.
        serve_options: Further words for ``pocketrec serve``.

    Raises:
        ConfigError: Later, by :meth:`start`: a fault or an option is unknown.

    Attributes:
        folder: Where store, keys and log lie while it runs.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        chaos: str = "",
        serve_options: Sequence[str] = (),
    ) -> None:
        self.folder = Path()
        self._bundle = bundle
        self._chaos = chaos
        self._serve_options = tuple(serve_options)
        self._server: subprocess.Popen[str] | None = None
        self._target = ""
        self._admin = ""

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and throw everything away."""
        self.close()

    @property
    def target(self) -> str:
        """What a device dials, such as "127.0.0.1:50051"; stays the same over restarts.

        Raises:
            ConfigError: The simulator was never started.
        """
        if not self._target:
            raise ConfigError("the simulator has not been started; use it in a with block")
        return self._target

    @property
    def root(self) -> bytes:
        """The trust anchor that a device has to be made with."""
        return (self.store / "metadata" / "1.root.json").read_bytes()

    @property
    def store(self) -> Path:
        """The server's folder of published files."""
        return self.folder / "store"

    @property
    def keys(self) -> Path:
        """Its keys, offline and online."""
        return self.folder / "keys"

    @property
    def is_running(self) -> bool:
        """Whether the server's process is up."""
        return self._server is not None and self._server.poll() is None

    @property
    def log(self) -> str:
        """What the server has written to its log since the simulator was started."""
        return self._log_file.read_text(encoding="utf-8")

    def start(self) -> None:
        """Make the repository, publish the bundle if there is one, and serve.

        Raises:
            ConfigError: It runs already, a fault or an option is unknown, or there is no bundle.
            ServiceUnavailableError: The server did not start; the message says why.
        """
        if self._target:
            raise ConfigError("the simulator was started already")
        self.folder = Path(tempfile.mkdtemp(prefix="pocketrec-cloud-"))
        try:
            self._log_file.touch()
            self.run("keys", "init", *self._folders)
            admin = self.run(
                *("admins", "add", "simulator", "--role", "operator", "--store", str(self.store))
            )
            self._token_file.touch(mode=0o600)
            self._token_file.write_text(admin["token"], encoding="utf-8")
            if self._bundle is not None:
                self.publish(self._bundle)
            self._serve()
        except BaseException:
            self.close()
            raise

    def publish(
        self,
        bundle: str | os.PathLike[str],
        *,
        sensitivity: str | os.PathLike[str] | None = None,
        planner: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Sign a bundle and make it the current one of its model.

        Args:
            bundle: Its folder.
            sensitivity: What planners need to know of the model; None =
                ``sensitivity.safetensors`` beside the bundle, where ``bundle build`` puts it.
            planner: Its personal planner; None = ``planner.safetensors`` beside the bundle, if
                there is one.

        Returns:
            What ``bundle publish --json`` says: ``model``, ``version``, ``bundle_digest``.

        Raises:
            ConfigError: There is no such bundle, or nothing beside it.
            ServiceUnavailableError: It cannot be published; the message says why.
        """
        folder = Path(bundle)
        known = Path(sensitivity) if sensitivity else folder.parent / "sensitivity.safetensors"
        personal = Path(planner) if planner else folder.parent / "planner.safetensors"
        for path in (folder, known, *([personal] if planner else [])):
            if not path.exists():
                raise ConfigError(f"expected {str(path)!r} to publish; is the path right?")
        options = ["--sensitivity", str(known)]
        if personal.exists():
            options += ["--planner", str(personal)]
        return self.run("bundle", "publish", str(folder), *self._folders, *options)

    def push(self, *words: str) -> dict[str, Any]:
        """Let plans be like this from now on, as ``pocketrec push`` does.

        Args:
            words: Whom for, and what, such as "--user", "ann", "--average-bits", "2.5".

        Returns:
            What ``push --json`` says, such as ``n_watching``.

        Raises:
            ConfigError: The words are wrong, or the simulator was never started.
            ServiceUnavailableError: The push failed; the message says why.
        """
        return self.admin("push", *words)

    def admin(self, *words: str) -> dict[str, Any]:
        """Run a command that calls the server as an operator, such as "rollout", "start", ....

        Raises:
            ConfigError: The words are wrong, or the simulator was never started.
            ServiceUnavailableError: The command failed; the message says why.
        """
        if not self._admin:
            raise ConfigError("the simulator has not been started; use it in a with block")
        return self.run(*words, "--server", self._admin, "--token-file", str(self._token_file))

    def stop(self) -> None:
        """End the server as an operator would: calls in flight are finished."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
            self._forget_server()

    def kill(self) -> None:
        """End the server at once, in the middle of whatever it does."""
        if self._server is not None:
            self._server.kill()
            self._forget_server()

    def restart(self, *, chaos: str | None = None) -> None:
        """Serve again what is stored, under the same address; stop first if need be.

        Args:
            chaos: Faults from now on; None = as before.

        Raises:
            ConfigError: The simulator was never started, or a fault is unknown.
            ServiceUnavailableError: The server did not start; the message says why.
        """
        port = self.target.rpartition(":")[2]
        self.stop()
        self._chaos = self._chaos if chaos is None else chaos
        self._serve(port)

    def close(self) -> None:
        """Stop, and throw store and keys away."""
        self.kill()
        self._target = self._admin = ""
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words: str) -> dict[str, Any]:
        """Run one ``pocketrec`` command to its end, and return what ``--json`` says.

        Raises:
            ConfigError: The command line is wrong.
            ServiceUnavailableError: The command failed; the message says why.
        """
        done = subprocess.run(  # noqa: S603  no shell; the caller is the test itself
            [*_POCKETREC, *words, "--json", "-"],
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            _fail(words, done.returncode, done.stderr)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    @property
    def _folders(self) -> tuple[str, ...]:
        return "--store", str(self.store), "--keys", str(self.keys)

    @property
    def _log_file(self) -> Path:
        return self.folder / "server.log"

    @property
    def _token_file(self) -> Path:
        return self.folder / "admin.token"

    def _serve(self, port: str = "0") -> None:
        """Start the server's process, and wait until it answers."""
        words = ["serve", *self._folders, "--port", port, "--admin-port", "0", "--json", "-"]
        words += self._serve_options
        if "--registrations-per-minute" not in self._serve_options:
            words += ["--registrations-per-minute", str(_REGISTRATIONS_PER_MINUTE)]
        if self._chaos:
            words += ["--chaos", self._chaos]
        start = self._log_file.stat().st_size
        with self._log_file.open("ab") as log:
            self._server = subprocess.Popen(  # noqa: S603  no shell; the caller is the test itself
                [*_POCKETREC, *words],
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        said = "".join(iter(partial(_line, self._server), "}\n")) + "}"
        if not said.startswith("{"):
            code = self._server.wait()
            self._forget_server()
            _fail(words, code, self._log_file.read_bytes()[start:].decode())
        listening = json.loads(said)
        self._target, self._admin = listening["address"], listening["admin_address"]

    def _forget_server(self) -> None:
        """Wait for the process that was told to end."""
        if self._server is not None:
            self._server.wait()
            if self._server.stdout is not None:
                self._server.stdout.close()
            self._server = None


def _line(server: subprocess.Popen[str]) -> str:
    """Return the next line a server prints, and what ends its message once it has ended."""
    line = server.stdout.readline() if server.stdout is not None else ""
    return line or "}\n"


def _environment() -> dict[str, str]:
    """Return the environment of a process that finds the packages that this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _fail(words: Sequence[str], code: int, log: str) -> NoReturn:
    """Raise the error for a command that failed, with the last line it wrote."""
    said = (log.strip() or "it said nothing").splitlines()[-1].removeprefix("error: ")
    if code == _USAGE:
        raise ConfigError(f"pocketrec {words[0]}: {said.removeprefix('Error: ')}")
    raise ServiceUnavailableError(
        f"pocketrec {words[0]} ended with code {code}: {said}", code="UNAVAILABLE"
    )
