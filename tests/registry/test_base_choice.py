"""Which base an adapter is for, where several fit, and what may be changed about a base that is known."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lorry_client import FailedPrecondition as ClientFailedPrecondition
from lorry_client.client import Client
from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import Lineage, LinearModule, Version
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_registry.rpc.errors import to_status
from lorry_registry.rpc.server import add_services, create_server

from .helpers import (
    KEY,
    MODULES,
    adapter_bytes,
    fingerprint,
    lora_config,
    make_base,
    publish,
    write_folder,
)


def trained_on(name: str) -> dict[str, bytes]:
    return adapter_bytes(config=lora_config(base_model_name_or_path=name))


def base_of(version: Version) -> str:
    return version.lineage.base_fingerprint[-1]


def know(catalogue: Catalogue, **names: str) -> Catalogue:
    """The catalogue with bases of the same shapes: letter of the fingerprint → display name."""
    for letter, name in names.items():
        catalogue.put_base(make_base(letter, name=name))
    catalogue.create_adapter(KEY)
    return catalogue


# Several fit.


def test_an_adapter_that_fits_several_bases_is_not_given_to_the_newest(
    catalogue: Catalogue,
) -> None:
    """A push without lineage was given to the newest base of its shapes without a word."""
    know(catalogue, a="tiny", b="another fine-tune")
    with pytest.raises(FailedPrecondition) as caught:
        publish(catalogue, adapter_bytes())
    error = caught.value
    assert error.reason == "BASE_AMBIGUOUS"
    for said in (fingerprint("a"), fingerprint("b"), "tiny", "another fine-tune", "--base"):
        assert said in error.message
    assert (error.metadata["base_1"], error.metadata["base_2"]) == (
        fingerprint("b"),
        fingerprint("a"),
    )
    assert publish(
        catalogue, adapter_bytes(), lineage=Lineage(base_fingerprint=fingerprint("a"))
    ).lineage.base_fingerprint == fingerprint("a")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/tiny", "a"),
        ("tiny", "a"),
        ("/models/tiny/", "a"),
        (r"C:\models\tiny", "a"),
        ("tiny-instruct", "b"),
        ("somebody/tiny-instruct", "b"),
    ],
)
def test_of_several_bases_the_configuration_names_one(
    catalogue: Catalogue, name: str, expected: str
) -> None:
    """The newest of the shapes was taken, whatever base_model_name_or_path said."""
    know(catalogue, a="org/tiny", b="tiny-instruct", c="other")
    assert base_of(publish(catalogue, trained_on(name))) == expected


def test_the_whole_name_goes_before_its_last_part(catalogue: Catalogue) -> None:
    know(catalogue, a="one/tiny", b="two/tiny")
    assert base_of(publish(catalogue, trained_on("one/tiny"))) == "a"


@pytest.mark.parametrize("name", ["", "/", "elsewhere", "three/tiny"])
def test_a_name_that_decides_nothing_is_ambiguous(catalogue: Catalogue, name: str) -> None:
    know(catalogue, a="one/tiny", b="two/tiny", c="")
    with pytest.raises(FailedPrecondition) as caught:
        publish(catalogue, trained_on(name))
    assert caught.value.reason == "BASE_AMBIGUOUS"
    assert (fingerprint("c") in caught.value.message) == (name != "three/tiny")


def test_a_base_announced_anew_after_training_is_told_from_the_old(catalogue: Catalogue) -> None:
    """The same name twice: what differs (fingerprint, quantization, since when) stands in the message, whole."""
    for letter in "abcdef":
        catalogue.put_base(
            replace(make_base(letter, name="lorry-tiny"), quantization=f"nf4-double-{letter}")
        )
    catalogue.create_adapter(KEY)
    with pytest.raises(FailedPrecondition) as caught:
        publish(catalogue, trained_on("lorry-tiny"))
    message = to_status(caught.value).details
    for letter in "fedcb":
        assert f"{fingerprint(letter)} (lorry-tiny, nf4-double-{letter}, known since 2" in message
    assert message.endswith("and 1 more")


def test_a_base_that_does_not_fit_makes_nothing_ambiguous(stocked: Catalogue) -> None:
    stocked.put_base(make_base("b", modules=dict.fromkeys(MODULES, (16, 16)), name="wide"))
    assert base_of(publish(stocked, trained_on("wide"))) == "a"


def test_the_same_files_for_another_base_are_refused(catalogue: Catalogue) -> None:
    """`--base` of files that are a version already would have been ignored without a word."""
    know(catalogue, a="tiny", b="tiny-2")
    first = publish(catalogue, trained_on("tiny"))
    again = Lineage(base_fingerprint=fingerprint("a"))
    assert publish(catalogue, trained_on("tiny"), lineage=again) == first
    with pytest.raises(FailedPrecondition) as caught:
        publish(catalogue, trained_on("tiny"), lineage=Lineage(base_fingerprint=fingerprint("b")))
    assert caught.value.reason == "BASE_DIFFERS"


@contextmanager
def served(catalogue: Catalogue) -> Iterator[str]:
    """The catalogue's services on a port, in a thread."""
    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> object:
        host = create_server("127.0.0.1:0", lambda server: add_services(server, catalogue))
        await host.start()
        return host

    host = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield host.address  # type: ignore[attr-defined]
    finally:
        asyncio.run_coroutine_threadsafe(host.stop(0), loop).result(10)  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_push_says_which_base(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no way to say it but to write a lineage.json; `--base` overrides what that says."""
    from typer.testing import CliRunner

    from lorry_client.cli.main import build_app

    know(catalogue, a="tiny", b="tiny-2")
    folder = write_folder(tmp_path / "adapter", adapter_bytes())
    with served(catalogue) as address:
        with Client(address) as client, pytest.raises(ClientFailedPrecondition) as caught:
            client.push(folder, "support")
        assert caught.value.reason == "BASE_AMBIGUOUS"
        (folder / "lineage.json").write_text(
            f'{{"base_fingerprint": "{fingerprint("c")}", "base_name": "gone", "producer": "me"}}'
        )
        monkeypatch.setenv("LORRY_SERVER", address)
        arguments = ["push", str(folder), "support", "--base", fingerprint("a")]
        result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    lineage = catalogue.resolve("support").lineage
    assert (lineage.base_fingerprint, lineage.base_name) == (fingerprint("a"), "tiny")
    assert lineage.producer == "me"


@pytest.mark.parametrize(
    ("named", "doubted"),
    [
        ("meta-llama/Llama-3.2-1B", True),
        ("/models/tiny-finetuned/", True),
        ("org/Tiny@main", False),
        ("C:\\models\\tiny\\", False),
        ("/root/.cache/huggingface/hub/models--org--tiny/snapshots/0a1b2c", False),
        ("/root/.cache/huggingface/hub/models--tiny/snapshots/0a1b2c", False),
        ("", False),
    ],
)
def test_a_base_by_another_name_is_doubted(
    named: str, doubted: bool, catalogue: Catalogue, tmp_path: Path
) -> None:
    """An adapter for other weights of the same shapes was published for the only base that is known without a word."""
    know(catalogue, a="tiny")
    folder = write_folder(tmp_path / "adapter", trained_on(named))
    with served(catalogue) as address, Client(address) as client:
        warnings = client.push(folder, "support").warnings
        assert len(warnings) == doubted
        if doubted:
            for said in (repr(named), "'tiny'", f"--base {fingerprint('a')}", "version 1"):
                assert said in warnings[0]
        # Who says which base it is knows.
        assert client.push(folder, "support", base=fingerprint("a")).warnings == ()


def test_a_doubt_is_told_on_the_command_line(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from lorry_client.cli.main import build_app

    know(catalogue, a="tiny")
    folder = write_folder(tmp_path / "adapter", trained_on("elsewhere"))
    with served(catalogue) as address:
        monkeypatch.setenv("LORRY_SERVER", address)
        for words in (["push"], ["import"]):
            result = CliRunner().invoke(build_app(), [*words, str(folder), "support"])
            assert result.exit_code == 0, result.output
            assert "warning: the adapter says it was trained on 'elsewhere'" in result.stderr
            assert "elsewhere" not in result.stdout
        told = CliRunner().invoke(build_app(), ["--json", "push", str(folder), "support"])
    (warning,) = json.loads(told.stdout)["warnings"]
    assert "'elsewhere'" in warning


# What is known of a base.


def test_the_modules_of_a_known_base_never_change(stocked: Catalogue) -> None:
    """Anybody could overwrite the shapes that everybody's uploads are checked against."""
    base = make_base()
    changed = replace(base.modules[0], in_features=99)
    for modules in (
        base.modules[1:],
        (*base.modules, LinearModule("more", 1, 1)),
        (changed, *base.modules[1:]),
    ):
        with pytest.raises(FailedPrecondition, match="never change") as caught:
            stocked.put_base(replace(base, modules=modules))
        assert caught.value.reason == "BASE_CONFLICT"
    assert stocked.get_base(base.fingerprint).modules == base.modules
    stocked.put_base(replace(base, modules=base.modules[::-1]))  # the order says nothing


def test_announcing_a_base_again_changes_its_name_alone_and_raises_its_cap(
    catalogue: Catalogue,
) -> None:
    """The last server's --max-rank held for every server of the base."""
    first = catalogue.put_base(make_base(max_rank=8))
    for cap, known in ((4, 8), (0, 8), (16, 16), (8, 16)):
        again = replace(
            first,
            display_name=f"name {cap}",
            max_rank=cap,
            architecture="Other",
            quantization="int8",
            context_length=1,
        )
        put = catalogue.put_base(again)
        assert put == replace(first, display_name=f"name {cap}", max_rank=known)
    catalogue.create_adapter(KEY)
    assert publish(catalogue, adapter_bytes(16)).number == 1
    with pytest.raises(InvalidArgument, match="at most 16"):
        publish(catalogue, adapter_bytes(17))
