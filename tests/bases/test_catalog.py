"""Finding a base by the name that a user gave."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lorry_bases import DEFAULT_BASE, BaseNotFound, resolve


def test_default_base_is_shipped() -> None:
    folder = resolve(DEFAULT_BASE)
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").is_file()


def test_a_folder_is_its_own_answer(llama_base: Path) -> None:
    assert resolve(str(llama_base)) == llama_base


def test_shipped_name_wins_over_a_folder_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stray folder called lorry-tiny must not change what `lorry serve` loads."""
    (tmp_path / DEFAULT_BASE).mkdir()
    monkeypatch.chdir(tmp_path)
    assert (resolve(DEFAULT_BASE) / "config.json").is_file()
    with pytest.raises(BaseNotFound, match=r"no config\.json"):
        resolve(f"./{DEFAULT_BASE}")


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("lorry-huge", "lorry-tiny"),  # the error lists what is shipped
        ("", "not a folder"),
        ("a b", "hub id"),
        ("org/name@", "org/name@revision"),
        ("./nowhere", "there is none at"),
        ("/nowhere/at/all", "there is none at"),
    ],
)
def test_unknown_name_is_refused_with_the_rule(base: str, said: str) -> None:
    with pytest.raises(BaseNotFound, match=said) as error:
        resolve(base)
    assert repr(base) in str(error.value)


def test_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(BaseNotFound, match="is a file"):
        resolve(str(file))


def test_folder_without_config_is_refused(llama_base: Path) -> None:
    (llama_base / "config.json").unlink()
    with pytest.raises(BaseNotFound, match=r"no config\.json"):
        resolve(str(llama_base))


def test_pickled_weights_are_refused(llama_base: Path) -> None:
    (llama_base / "model.safetensors").rename(llama_base / "pytorch_model.bin")
    with pytest.raises(BaseNotFound, match="never loaded"):
        resolve(str(llama_base))


def test_missing_shard_is_refused_by_name(llama_base: Path) -> None:
    (llama_base / "model.safetensors").unlink()
    (llama_base / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    )
    with pytest.raises(BaseNotFound, match="model-00001-of-00002"):
        resolve(str(llama_base))


def test_shard_outside_the_folder_is_refused(llama_base: Path) -> None:
    (llama_base / "model.safetensors").rename(llama_base.parent / "other.safetensors")
    (llama_base / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../other.safetensors"}}'
    )
    with pytest.raises(BaseNotFound, match="not a file beside it"):
        resolve(str(llama_base))


class TestHub:
    """The hub itself is never asked in tests: `snapshot_download` is replaced."""

    def test_revision_is_passed_on_and_no_pickle_or_code_is_fetched(
        self, llama_base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = {}

        def snapshot_download(repository: str, **options: object) -> str:
            asked.update(options, repository=repository)
            return str(llama_base)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        assert resolve("org/name@v1.0") == llama_base
        assert (asked["repository"], asked["revision"]) == ("org/name", "v1.0")
        for name in ("pytorch_model.bin", "model.pt", "modeling_custom.py", "model.pkl", "a.gguf"):
            assert not any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])
        for name in ("model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja"):
            assert any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])

    def test_hub_out_of_reach_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def snapshot_download(*_: object, **__: object) -> str:
            raise LocalEntryNotFoundError("Name or service not known")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        with pytest.raises(BaseNotFound, match=r"'org/name' could not be fetched.*give a folder"):
            resolve("org/name")

    def test_without_huggingface_hub_the_extra_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(BaseNotFound, match=r"lorry\[server\]"):
            resolve("org/name")


def test_import_needs_no_torch() -> None:
    """The command line resolves names and prints fingerprints; torch would cost it seconds."""
    heavy = "{'torch', 'transformers', 'bitsandbytes', 'huggingface_hub', 'numpy'}"
    code = f"import sys, lorry_bases; print(sorted({heavy} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(Path(resolve(DEFAULT_BASE)).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
