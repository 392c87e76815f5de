"""In and out: the same files, digest, lineage and description, whichever way a version goes."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lorry_client import AlreadyExists, Client, DataLoss, InvalidArgument, Lineage, Login, NotFound
from lorry_client._oci import read_layout
from lorry_client.exchange import copy_version, export_version, import_version
from lorry_client.results.catalogue import Dataset, Version
from lorry_registry.access.entities import Quotas
from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey
from lorry_registry.errors import FailedPrecondition, LorryError, ResourceExhausted
from lorry_registry.references import parse_reference
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import create_server
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.security import Auth, Security

from .helpers import KEY, adapter_bytes, fingerprint, make_base, publish, write_folder

T = TypeVar("T")

LINEAGE = Lineage(
    base_fingerprint=fingerprint("a"),
    base_name="tiny",
    recipe="r: 4",
    datasets=(Dataset("intent", fingerprint("d"), "train", 1000),),
    metrics={"exact": 0.5},
    parents=(fingerprint("9"),),
    producer="trainer 1",
    code_revision="abc",
)


@asynccontextmanager
async def serving(catalogue: Catalogue, security: Security | None = None) -> AsyncIterator[str]:
    security = security or Security()
    gate = Gate(RULES, authority_of(catalogue, security, "127.0.0.1:0"))
    host = create_server("127.0.0.1:0", lambda s: add_services(s, catalogue), gate=gate)
    await host.start()
    yield host.address
    await host.stop(0)


@pytest.fixture
async def here(stocked: Catalogue) -> AsyncIterator[str]:
    async with serving(stocked) as address:
        yield address


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[tuple[Catalogue, str]]:
    """Another registry, which knows who calls."""
    catalogue = open_catalogue(tmp_path / "there")
    catalogue.put_base(make_base())
    async with serving(catalogue, Security(Auth.REQUIRED)) as address:
        yield catalogue, address
    catalogue.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_folder(tmp_path / "adapter", adapter_bytes())
    (made / "labels.json").write_text('["yes", "no"]')
    (made / "README.md").write_text("# support")
    return made


async def beside(address: str, act: Callable[[Client], T]) -> T:
    """What the blocking client does, while the server's loop goes on."""

    def run() -> T:
        with Client(address) as client:
            return act(client)

    return await asyncio.to_thread(run)


def same(ours: Version, theirs: Version) -> None:
    assert (ours.digest, ours.files, ours.lineage, ours.description) == (
        theirs.digest,
        theirs.files,
        theirs.lineage,
        theirs.description,
    )


async def test_every_way_out_and_in_again(
    here: str, there: tuple[Catalogue, str], folder: Path, tmp_path: Path
) -> None:
    catalogue, elsewhere = there
    token = catalogue.access.create_token(["publish:team"])[1]
    login = Login(token)
    layout = tmp_path / "layout"

    def go(client: Client) -> None:
        first = client.push(folder, "support", lineage=LINEAGE, description="the first").version
        assert first.lineage == LINEAGE
        # A folder. It has no place for a description.
        out = export_version(client, "support:1", str(tmp_path / "out"))
        assert (
            json.loads((tmp_path / "out" / "lineage.json").read_text())["producer"] == "trainer 1"
        )
        back = import_version(client, out, "team/folder", description="the first").version
        same(first, back)
        with pytest.raises(AlreadyExists):
            export_version(client, "support", out)
        # An OCI layout, with a second tag beside the first.
        named = export_version(client, "models:/support/1", f"oci:{layout}:v1")
        assert named.startswith(f"{layout}:v1@sha256:")
        assert export_version(client, "support", f"oci:{layout}:v1") == named
        same(first, import_version(client, str(layout), "team/layout").version)
        export_version(client, "support", f"oci:{layout}:v2")
        same(first, import_version(client, f"oci:{layout}:v2", "team/tagged").version)
        with pytest.raises(InvalidArgument, match="say which"):
            import_version(client, f"oci:{layout}", "team/x")
        with pytest.raises(NotFound, match="v1, v2"):
            import_version(client, f"oci:{layout}:v3", "team/x")
        # Another registry, there and back.
        place = f"lorry://{elsewhere}/team/support"
        reference = export_version(client, "support", place, other=login)
        assert reference == f"team/support@{first.digest}"
        same(first, import_version(client, f"{place}:1", "team/back", other=login).version)
        same(first, copy_version(client, "support", "team/more", to_server=elsewhere, other=login))
        # Another name in this one: no byte moves.
        copied = copy_version(client, "support@" + first.digest, "team/copied")
        same(first, copied)
        assert (copied.adapter, copied.number) == ("team/copied", 1)
        assert client.copy("support", "team/copied") == copied
        with pytest.raises(NotFound):
            client.copy("support:7", "team/new")
        assert "team/new" not in {adapter.name for adapter in client.adapters.list()}

    await beside(here, go)
    assert catalogue.resolve("team/more").lineage.metrics == {"exact": 0.5}


async def test_a_token_is_shown_to_no_other_registry(
    here: str, there: tuple[Catalogue, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lorry import lorry://…` of a stranger's registry would give the stranger one's own token."""
    catalogue, elsewhere = there
    monkeypatch.setenv("LORRY_TOKEN", catalogue.access.create_token(["admin:*"])[1])

    def go(client: Client) -> None:
        client.push(folder, "support")
        with pytest.raises(Exception, match="who calls"):
            export_version(client, "support", f"lorry://{elsewhere}/team/support")

    await beside(here, go)


def test_a_copy_needs_its_room(stocked: Catalogue) -> None:
    publish(stocked, adapter_bytes())
    stocked.access.create_namespace("team", quotas=Quotas(max_bytes=10))
    stocked.create_adapter(AdapterKey("team", "a"))
    with pytest.raises(ResourceExhausted):
        stocked.copy(str(KEY), AdapterKey("team", "a"))


def test_a_blocked_version_is_not_copied(stocked: Catalogue) -> None:
    """A copy of it was a version that nobody had blocked, and was served."""
    publish(stocked, adapter_bytes())
    other = AdapterKey("team", "a")
    stocked.create_adapter(other)
    stocked.block(KEY, 1, "trained on what it must not know")
    with pytest.raises(FailedPrecondition, match="must not know"):
        stocked.copy(f"{KEY}:1", other)
    stocked.unblock(KEY, 1)
    assert stocked.copy(f"{KEY}:1", other).number == 1


@pytest.mark.parametrize(
    ("mlflow", "ours"),
    [
        ("models:/support/3", "support:3"),
        ("models:/support@production", "support@production"),
        ("models:/team/support/3", "team/support:3"),
        ("models:/team/support@champion", "team/support@champion"),
    ],
)
def test_references_as_mlflow_writes_them(mlflow: str, ours: str) -> None:
    assert parse_reference(mlflow) == parse_reference(ours)


@pytest.mark.parametrize(
    "text", ["models:/", "models:/support", "models:/support/latest", "models:/support/Production",
             "models:/a/b/c/1", "models:/support/0", "models://support/1", "models:/@x"],
)  # fmt: skip
def test_what_mlflow_would_not_write_either_is_refused(text: str) -> None:
    with pytest.raises(LorryError):
        parse_reference(text)


# Layouts by strangers.


def layout_of(folder: Path, layers: list[tuple[str, dict[str, str], bytes]]) -> Path:
    """A layout with these layers: media type, annotations, bytes."""
    import hashlib

    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = {
        "layers": [
            {"mediaType": kind, "annotations": annotations, **put(data)}
            for kind, annotations, data in layers
        ]
    }
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **put(json.dumps(manifest).encode()),
    }
    (folder / "oci-layout").write_text("{}")
    (folder / "index.json").write_text(json.dumps({"manifests": [entry]}))
    return folder


RAW, TAR = "application/vnd.cncf.model.weight.v1.raw", "application/vnd.cncf.model.weight.v1.tar"
PATH = "org.cncf.model.filepath"


def tar_of(*members: tuple[str, bytes | None, bytes]) -> bytes:
    """Entries: name, content, and the type of what is no file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = kind, "/etc/passwd"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_archives_are_read_entry_by_entry(tmp_path: Path) -> None:
    archive = tar_of(("./a.json", b"{}", b""), ("b.md", b"# b", b""))
    layout = layout_of(tmp_path / "layout", [(TAR, {}, archive), (RAW, {PATH: "c.txt"}, b"c")])
    into = tmp_path / "into"
    into.mkdir()
    read_layout(layout, None, into)
    assert {p.name: p.read_bytes() for p in into.iterdir()} == {
        "a.json": b"{}",
        "b.md": b"# b",
        "c.txt": b"c",
    }


@pytest.mark.parametrize(
    "layers",
    [
        [(RAW, {PATH: "../evil"}, b"x")],
        [(RAW, {PATH: "/etc/evil"}, b"x")],
        [(RAW, {PATH: "a/b"}, b"x")],
        [(RAW, {PATH: ".hidden"}, b"x")],
        [(RAW, {PATH: "a\0b"}, b"x")],
        [(RAW, {}, b"x")],
        [(RAW, {PATH: "a"}, b"x"), (RAW, {PATH: "A"}, b"y")],
        [(TAR, {}, tar_of(("../evil", b"x", b"")))],
        [(TAR, {}, tar_of(("link", None, tarfile.SYMTYPE)))],
        [(TAR, {}, tar_of(("link", None, tarfile.LNKTYPE)))],
        [(TAR, {}, tar_of(("device", None, tarfile.CHRTYPE)))],
        [(TAR, {}, b"\x1f\x8b no archive")],
        [(TAR + "+gzip", {}, b"x")],
        [("application/octet-stream", {PATH: "a"}, b"x")],
        [],
    ],
)
def test_layers_that_are_no_plain_files_are_refused(
    tmp_path: Path, layers: list[tuple[str, dict[str, str], bytes]]
) -> None:
    layout = layout_of(tmp_path / "layout", layers)
    into = tmp_path / "in" / "to"
    into.mkdir(parents=True)
    with pytest.raises(InvalidArgument):
        read_layout(layout, None, into)
    assert {p.name for p in (tmp_path / "in").iterdir()} == {"to"}
    assert not (tmp_path / "evil").exists()


def test_a_blob_that_is_not_its_digest_is_refused(tmp_path: Path) -> None:
    layout = layout_of(tmp_path / "layout", [(RAW, {PATH: "a"}, b"x" * 100)])
    into = tmp_path / "into"
    into.mkdir()
    for blob in (layout / "blobs" / "sha256").iterdir():
        if blob.stat().st_size == 100:
            blob.write_bytes(b"y" * 100)
    with pytest.raises(DataLoss):
        read_layout(layout, None, into)
    for index in ("[]", "{", '{"manifests": 3}', '{"manifests": [3]}', "[" * 100_000):
        (layout / "index.json").write_text(index)
        with pytest.raises((InvalidArgument, NotFound)):
            read_layout(layout, None, into)


# The hub, from its cache: none is reached.


def fill_cache(home: Path, commit: str, folder: Path) -> None:
    """A folder as the hub's client keeps a repository that it has fetched at the tag `v1`."""
    repository = home / "hub" / "models--team--support"
    snapshot = repository / "snapshots" / commit
    for made in (repository / "blobs", repository / "refs", snapshot):
        made.mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    for path in folder.iterdir():
        (repository / "blobs" / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")


async def test_a_hub_repository_at_a_revision(here: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    fill_cache(tmp_path / "hf", commit, folder)
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "LORRY_SERVER": here,
    }
    environment.pop("HF_HUB_CACHE", None)

    async def lorry(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "lorry_client", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = await lorry("--json", "import", "hf:team/support@v1", "support")
    assert done.returncode == 0, done.stderr
    gone = await lorry("import", "hf:team/support@v2", "support")
    assert gone.returncode in (3, 6), gone.stderr
    assert "Traceback" not in gone.stderr
    version = await beside(here, lambda client: client.resolve("support"))
    assert version.lineage.producer == f"hub team/support@{commit}"
    names = [file.path for file in version.files]
    assert names == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "labels.json",
    ]
