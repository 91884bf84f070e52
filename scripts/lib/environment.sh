# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts, from the repository root: makes .venv ready, once.
#
#   ensure_environment PROFILE    demo: what the demonstration needs
#                                 test: demo, ExecuTorch and the developers' tools
# Sets PYTHON to the environment's interpreter. Every step that may fail ends in
# "|| return": a caller that tests the result has switched "set -e" off in here.
#
# A profile that is ready leaves a stamp: a hash of everything that decides what gets
# installed. The stamp is written last, so an interrupted installation is taken up
# again by the next call.

VENV=.venv
PYTHON="$PWD/$VENV/bin/python"

# Prints the first Python at hand that is new enough.
find_python() {
  local candidate
  for candidate in "${POCKETREC_PYTHON:-python3}" python3.11 python3.12 python3.13; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: pocketrec needs Python 3.11 or newer; set POCKETREC_PYTHON to one" >&2
  return 1
}

stamp_value() {
  "$PYTHON" - "$PWD" <<'PYTHON_CODE'
import hashlib, pathlib, sys
parts = [sys.argv[1], sys.version, pathlib.Path("pyproject.toml").read_text()]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON_CODE
}

profile_extras() {
  case "$1" in
    demo) echo "cloud,device" ;;
    test) echo "cloud,device,executorch,baselines,plots,s3,tracing,dev" ;;
    *) echo "error: unknown profile $1, expected demo or test" >&2; return 1 ;;
  esac
}

# A pip that speaks only of errors.
quiet_pip() {
  "$PYTHON" -m pip "$1" -qq --disable-pip-version-check --no-input "${@:2}"
}

ensure_environment() {
  local profile="$1" extras wanted base
  extras="$(profile_extras "$profile")" || return

  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    base="$(find_python)" || return
    echo "environment: making $VENV with $base"
    "$base" -m venv --clear "$VENV" || return
  fi

  wanted="$(stamp_value)" || return
  if [ "$(cat "$VENV/.ready-$profile" 2>/dev/null)" = "$wanted" ]; then
    return
  fi

  # First and alone, so that exactly this release is chosen and nothing pulls in another.
  echo "environment: installing PyTorch into $VENV (the first time takes some minutes)"
  quiet_pip install "torch==2.13.0" || return
  echo "environment: installing pocketrec[$extras]"
  quiet_pip install --editable ".[$extras]" || return
  echo "$wanted" > "$VENV/.ready-$profile"
  if [ "$profile" = test ]; then
    echo "$wanted" > "$VENV/.ready-demo"
  fi
  echo "environment: ready"
}
