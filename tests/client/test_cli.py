"""The command line: what stands on which stream, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorry_client.cli.exit_codes import MEANINGS, exit_code
from lorry_client.cli.main import build_app

DIGEST = f"sha256:{'a' * 64}"
HEAVY = ("torch", "transformers", "grpc", "sqlalchemy", "numpy", "google.protobuf", "rich")

Lorry = Callable[..., "subprocess.CompletedProcess[str]"]
OneJson = Callable[[str], Any]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(build_app(), list(arguments))


def test_the_command_line_imports_nothing_heavy() -> None:
    """Counted in modules, not in seconds: what `lorry --help` loads decides how long it takes."""
    code = (
        "import sys; from lorry_client.cli.main import build_app; "
        "from typer.testing import CliRunner; import lorry_client; "
        "assert CliRunner().invoke(build_app(), ['--help']).exit_code == 0; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_lists_the_commands_and_the_exit_codes(lorry: Lorry) -> None:
    done = lorry("--help")
    assert done.returncode == 0
    for word in ("push", "pull", "adapters", "aliases", "generate", "status"):
        assert f"  {word} " in done.stdout
    for code, meaning in MEANINGS.items():
        assert f"{code:>5}  {meaning}" in done.stdout


def test_generate_streams_text(server: Any, lorry: Lorry) -> None:
    done = lorry("generate", "one two", "-a", "intent")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two\n", "")


def test_generate_json(server: Any, one_json: OneJson) -> None:
    done = invoke(
        "generate", "one two", "--adapter", "intent@production", "--json", "--logprobs", "2"
    )
    assert done.exit_code == 0
    answer = one_json(done.stdout)
    assert answer["text"] == "one two"
    assert answer["token_ids"] == [0, 1]
    assert answer["finish_reason"] == "stop"
    assert answer["adapter"] == f"default/intent@{DIGEST}"
    assert answer["adapter_digest"] == DIGEST
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "cached_prompt_tokens": 4,
        "completion_tokens": 2,
    }
    assert answer["logprobs"][0]["top"][1]["logprob"] is None  # -inf has no JSON


def test_generate_sends_what_it_is_told(server: Any) -> None:
    sent = server.inference.requests
    options = ["--max-tokens", "5", "--temperature", "0.5", "--seed", "7", "--ignore-eos"]
    more = ["--top-k", "3", "--top-p", "0.9", "--stop", "a", "--stop", "b"]
    assert invoke("generate", "x", *options, *more).exit_code == 0
    sampling = sent[-1].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (5, 0.5, 7)
    assert (sampling.top_k, sampling.ignore_eos, list(sampling.stop)) == (3, True, ["a", "b"])
    assert invoke("generate", "--token-ids", "1 2, 3").exit_code == 0
    assert list(sent[-1].tokens.token_ids) == [1, 2, 3]
    assert invoke("generate", "x").exit_code == 0
    assert sent[-1].text == "x"
    assert invoke("generate", "x", "--chat").exit_code == 0
    assert [one.role for one in sent[-1].chat.messages] == ["user"]
    assert invoke("generate", "x", "--system", "be brief").exit_code == 0
    assert [one.role for one in sent[-1].chat.messages] == ["system", "user"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "x", "--token-ids", "1"],
        ["generate", "--token-ids", "one"],
        ["generate", "x", "--logprobs", "2"],
        ["generate", "x", "--max-tokens", "many"],
        ["push", "dir"],
        ["no-such-command"],
        ["adapters"],
        [],
    ],
)
def test_wrong_usage_is_2(server: Any, arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (3, ["generate", "x", "-a", "unknown"]),
        (3, ["adapters", "show", "unknown"]),
        (3, ["pull", "unknown", "target"]),
        (3, ["push", "no-such-folder", "intent"]),
        (4, ["generate", "x", "--seed", "-1"]),
        (4, ["generate", "x", "-a", ""]),
        (4, ["generate", "x", "--max-tokens", "99999999999"]),
        (4, ["adapters", "show", "a/b/c"]),
        (4, ["status", "--server", "nowhere"]),
        (6, ["status", "--server", "127.0.0.1:1"]),
        (7, ["generate", "hang", "--timeout", "0.2"]),
        (8, ["generate", "full"]),
        (1, ["generate", "no end"]),
    ],
)
def test_every_kind_of_failure_has_its_code(
    server: Any, code: int, arguments: list[str], one_json: OneJson
) -> None:
    plain = invoke(*arguments)
    assert plain.exit_code == code
    assert plain.stderr.startswith("error: ")
    assert "Traceback" not in plain.stderr
    as_json = invoke("--json", *arguments)
    assert as_json.exit_code == code
    assert as_json.stdout == ""
    assert set(one_json(as_json.stderr)["error"]) == {"code", "reason", "message", "metadata"}


def test_the_reason_is_part_of_the_message(server: Any, lorry: Lorry) -> None:
    done = lorry("generate", "x", "-a", "unknown")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == "error: ADAPTER_NOT_FOUND for the test. [ADAPTER_NOT_FOUND]\n"


def test_errors_of_other_packages_end_with_the_same_codes() -> None:
    """They have classes of the same names; the client imports none of them."""

    class LorryError(Exception): ...

    class FailedPrecondition(LorryError): ...

    class OutOfRange(LorryError): ...

    class PortInUse(FailedPrecondition): ...

    assert exit_code(PortInUse()) == 5
    assert exit_code(OutOfRange()) == 4
    assert exit_code(LorryError()) == 1
    assert exit_code(RuntimeError()) == 1


@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_the_shared_options_may_stand_anywhere(
    server: Any, monkeypatch: pytest.MonkeyPatch, place: str, one_json: OneJson
) -> None:
    monkeypatch.delenv("LORRY_SERVER")
    shared = ["--server", server.address, "--json"]
    line = {
        "before": [*shared, "adapters", "ls"],
        "between": ["adapters", *shared, "ls"],
        "after": ["adapters", "ls", *shared],
    }
    done = invoke(*line[place])
    assert done.exit_code == 0, done.stderr
    assert one_json(done.stdout) == {"adapters": []}


def test_push_pull_show_and_rm(
    server: Any, lorry: Lorry, folder: Path, tmp_path: Path, one_json: OneJson
) -> None:
    (folder / "optimizer.pt").write_text("x")
    lineage = {"baseName": "lorry-tiny", "metrics": {"test_exact_match": 0.9}, "producer": "t 1"}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    pushed = lorry("push", str(folder), "intent", "--alias", "production")
    assert pushed.returncode == 0
    reference = pushed.stdout.strip()
    assert reference.startswith("default/intent@sha256:")
    assert pushed.stdout == f"{reference}\n"
    assert "version 1, alias production" in pushed.stderr
    assert "skipped optimizer.pt" in pushed.stderr

    again = invoke("push", str(folder), "intent", "--json")
    answer = one_json(again.stdout)
    assert answer["reference"] == reference
    assert answer["version"] == 1
    assert {file["state"] for file in answer["files"]} == {"exists"}

    target = tmp_path / "target"
    pulled = lorry("pull", reference, str(target))
    assert (pulled.returncode, pulled.stdout) == (0, f"{reference}\n")
    assert (target / "adapter_model.safetensors").stat().st_size == 2_621_440

    listed = invoke("adapters", "ls").stdout.splitlines()
    assert listed[0].split() == ["NAME", "VERSION", "CHANGED", "LABELS", "DESCRIPTION"]
    assert listed[1].split()[:2] == ["default/intent", "1"]

    shown = invoke("adapters", "show", "intent").stdout
    assert "@production" in shown
    assert "test_exact_match=0.9" in shown
    assert "producer" in shown
    document = one_json(invoke("adapters", "show", "intent", "--json").stdout)
    assert document["versions"][0]["reference"] == reference
    assert document["versions"][0]["lineage"]["base_name"] == "lorry-tiny"
    assert document["aliases"][0]["name"] == "production"

    assert invoke("adapters", "rm", "intent").exit_code == 0
    assert invoke("adapters", "rm", "intent").exit_code == 3


def test_aliases(server: Any, folder: Path, one_json: OneJson) -> None:
    reference = invoke("push", str(folder), "intent").stdout
    moved = invoke("aliases", "set", "intent", "production", "1")
    assert (moved.exit_code, moved.stdout) == (0, reference)
    answer = one_json(
        invoke("aliases", "set", "intent", "next", "intent@production", "--json").stdout
    )
    assert answer["name"] == "next"
    assert answer["targets"][0]["version"] == 1
    assert invoke("aliases", "rm", "intent", "next").exit_code == 0
    assert invoke("aliases", "rm", "intent", "next").exit_code == 3


def test_aliases_are_divided_and_rolled_back(server: Any, folder: Path, one_json: OneJson) -> None:
    invoke("push", str(folder), "intent")
    (folder / "README.md").write_text("# better\n")
    invoke("push", str(folder), "intent")
    invoke("aliases", "set", "intent", "production", "1")
    divided = invoke(
        "aliases", "set", "intent", "production", "1:90,2:10", "--why", "a try", "--json"
    )
    targets = one_json(divided.stdout)["targets"]
    assert [(one["version"], one["weight"]) for one in targets] == [(1, 90), (2, 10)]
    back = invoke("aliases", "rollback", "intent", "production", "--why", "no good")
    assert back.stdout == f"default/intent@{targets[0]['digest']}\n"
    rows = invoke("aliases", "history", "intent", "production").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["MOVE", "3", "2", "1"]
    assert "1:90,2:10" in rows[2]
    assert rows[1].endswith("no good")
    listed = one_json(invoke("aliases", "history", "intent", "production", "--json").stdout)
    assert listed["moves"][0]["restores"] == 1
    assert invoke("aliases", "rollback", "intent", "production", "--to", "2").exit_code == 0
    assert invoke("aliases", "rollback", "intent", "production", "--etag", "x").exit_code == 5
    for wrong in ("1:90,", "1:90,1:10", "1:x,2", "other:1,2"):
        assert invoke("aliases", "set", "intent", "production", wrong).exit_code == 2


def test_status(server: Any, one_json: OneJson) -> None:
    text = invoke("status").stdout
    assert "lorry-tiny" in text
    assert "default/intent:1" in text
    document = one_json(invoke("status", "--json").stdout)
    assert document["base_fingerprint"] in text  # all of it: what `lorry serve` says is cut short
    assert document["slots_total"] == 8
    assert document["residents"][0]["tier"] == "slot"
    assert "registry:7071, followed up to event 12" in text
    assert document["registry"] == {
        "address": "registry:7071",
        "connected": True,
        "silence_seconds": 3.5,
        "position": 12,
    }
    server.admin.connected = False
    assert "registry:7071, CUT OFF for 4 s" in invoke("status").stdout


def test_a_deprecated_version_is_warned_of_beside_the_text(server: Any, lorry: Lorry) -> None:
    done = lorry("generate", "one two", "-a", "old")
    assert (done.returncode, done.stdout) == (0, "one two\n")
    assert done.stderr == "warning: default/old:1 is deprecated: it is old.\n"


def test_text_from_users_is_not_markup(server: Any) -> None:
    from lorry_client import Client

    with Client() as client:
        client.adapters.create("intent", description="[red]not red[/red]")
    assert "[red]not red[/red]" in invoke("adapters", "ls").stdout


def spawn(*arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "lorry_client", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
    )


def test_an_interrupt_cancels_and_is_130(server: Any) -> None:
    import signal

    running = spawn("generate", "hang")
    assert running.stdout is not None
    assert running.stdout.read(6) == b"first "
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert server.inference.cancelled.wait(5)


def test_a_reader_that_leaves_is_no_drama(server: Any) -> None:
    for arguments in (["generate", "x"], ["adapters", "ls"], ["--help"]):
        readable, writable = os.pipe()
        os.close(readable)
        running = spawn(*arguments, stdout=writable)
        os.close(writable)
        _, errors = running.communicate(timeout=20)
        assert errors == b""
        assert running.returncode in (0, 1)


def install(folder: Path, code: str) -> None:
    """A distribution with one entry point in the group."""
    (folder / "extra_commands.py").write_text(code)
    metadata = folder / "extra_commands-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: extra-commands\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[lorry.commands]\nextra = extra_commands:register\n"
    )


def test_other_packages_add_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lorry: Lorry
) -> None:
    install(
        tmp_path,
        "def register(app):\n"
        "    @app.command('extra')\n"
        "    def extra() -> None:\n"
        "        'Do more.'\n"
        "        class NotFound(Exception):\n"
        "            message, reason, metadata = 'gone', 'GONE', {}\n"
        "        raise NotFound()\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "Do more." in lorry("--help").stdout
    done = lorry("extra")
    assert (done.returncode, done.stderr) == (3, "error: gone [GONE]\n")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "'no_such_module' is not installed"),
        ("def register(app):\n    app.command('half')(lambda: 0)\n    raise ValueError('x')", "x"),
        ("", "register"),
    ],
)
def test_a_command_that_cannot_be_loaded_says_so_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lorry: Lorry, code: str, why: str
) -> None:
    install(tmp_path, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    listing = lorry("--help").stdout
    assert "Not available" in listing
    assert "half" not in listing
    done = lorry("extra", "--any", "option")
    assert done.returncode == 1
    assert done.stdout == ""
    assert why in done.stderr
    assert "Traceback" not in done.stderr
