"""The contract's part of the lint step: no stub is stale, and `buf lint` is content.

Run as `python -m tests.lint_protos` from the project's root. buf comes from npm; without npm the step
says so and goes on.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUF = "@bufbuild/buf@1"


def stale_stubs() -> list[str]:
    """The stubs that differ from what the .proto files give now."""
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as out:
        kinds = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", *kinds, *protos]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        fresh = sorted(path.relative_to(out) for path in Path(out).rglob("*.py*"))
        return [
            str(path)
            for path in fresh
            if not (ROOT / "protos" / path).is_file()
            or not filecmp.cmp(Path(out) / path, ROOT / "protos" / path, shallow=False)
        ]


def buf_lint() -> int:
    npm = shutil.which("npm")
    if npm is None:
        print("buf lint: skipped, for there is no npm to install buf with", file=sys.stderr)
        return 0
    prefix = ROOT / ".venv" / "buf"
    buf = prefix / "node_modules" / ".bin" / "buf"
    if not buf.exists():
        install = [
            npm,
            "install",
            "--silent",
            "--no-fund",
            "--no-audit",
            "--prefix",
            str(prefix),
            BUF,
        ]
        if subprocess.run(install, capture_output=True).returncode != 0:
            print("buf lint: skipped, for npm could not install buf", file=sys.stderr)
            return 0
    return subprocess.run([str(buf), "lint"], cwd=ROOT).returncode


def main() -> int:
    stale = stale_stubs()
    if stale:
        print(f"stale stubs, run `make protos`: {', '.join(stale)}", file=sys.stderr)
        return 1
    return buf_lint()


if __name__ == "__main__":
    sys.exit(main())
