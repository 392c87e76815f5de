"""The blocking client."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from lorry_client._blocking import BlockingDriver
from lorry_client._calls import access, admin, bases, inference, registry
from lorry_client._calls.registry import Target
from lorry_client._compose import compose
from lorry_client._login import Login
from lorry_client._pull import pull
from lorry_client._push import AnyLineage, push
from lorry_client._steps import all_pages, first_of
from lorry_client._versions import VersionVerbs
from lorry_client.progress import Progress, Silence
from lorry_client.results import (
    Adapter,
    Alias,
    AliasMove,
    Base,
    Chunk,
    Classification,
    Completion,
    Embedding,
    Merge,
    Model,
    NewBase,
    Pulled,
    Pushed,
    Resident,
    Scores,
    Status,
    TokenClassification,
    Tokens,
    Version,
)
from lorry_client.results.access import (
    AuditEvent,
    Caller,
    FreshToken,
    Namespace,
    Quotas,
    Token,
)

if TYPE_CHECKING:
    import grpc

    from lorry_client.compositions import Composition
    from lorry_client.sampling import Message, Pooling, Prompt, Sampling


class Client(VersionVerbs):
    """Talks to a server or a registry over one channel; may be shared between threads.

    Every call has a deadline: `timeout` in seconds, or one that suits the call. Every failure is a `LorryError`.

    Args:
        server: `HOST:PORT`; where absent, `LORRY_SERVER`, else 127.0.0.1:7070.
        login: a token and TLS; what it leaves out is taken from LORRY_TOKEN and the like.
        credentials: for TLS by gRPC's own means, instead of the login's.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        login: Login | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._driver = BlockingDriver(server, credentials, login or Login())
        self.server = self._driver.server
        self.adapters = Adapters(self._driver)
        self.access = AccessControl(self._driver)

    def close(self) -> None:
        """Ends the channel; calls in flight are cancelled."""
        self._driver.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        prompt: Prompt,
        adapter: str | Composition | None = None,
        *,
        sticky_key: str | None = None,
        merged: bool = False,
        timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Completion:
        """Generates and returns everything at once.

        Args:
            prompt: text, a list of messages (`{"role": …, "content": …}`), or token ids.
            adapter: a reference; `a*0.7+b*0.3` or a `Composition` for several as one; None for the bare base.
            sticky_key: who asks, where the adapter's alias divides the requests: the same key gets the same version.
            merged: begin once the adapter is folded into copies of the weights; the text is the same.
        """
        request = inference.generate_request(prompt, adapter, sticky_key, merged=merged, **sampling)
        return self._driver.call(inference.generate(request), timeout)

    def stream(
        self,
        prompt: Prompt,
        adapter: str | Composition | None = None,
        *,
        sticky_key: str | None = None,
        merged: bool = False,
        timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Generator[Chunk, None, None]:
        """Generates and yields what is new as it comes; the last chunk carries the completion.

        Closing the generator early cancels the request.
        """
        request = inference.generate_request(prompt, adapter, sticky_key, merged=merged, **sampling)
        return self._driver.chunks(inference.stream(request), timeout)

    def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        adapter: str | Composition | None = None,
        *,
        logprobs: int = 0,
        sticky_key: str | None = None,
        timeout: float | None = None,
    ) -> Scores:
        """Returns how likely continuations of a prompt are: for evaluation and ranking.

        Args:
            continuations: texts, each tokenized by itself, or token ids; at least one token each.
            logprobs: beside each token, so many of the likeliest in its place.
        """
        call = inference.score(prompt, continuations, adapter, sticky_key, logprobs)
        return self._driver.call(call, timeout)

    def embed(
        self,
        prompt: Prompt,
        adapter: str | Composition | None = None,
        *,
        pooling: Pooling = "last",
        normalize: bool = False,
        sticky_key: str | None = None,
        timeout: float | None = None,
    ) -> Embedding:
        """Returns a prompt as a vector: its final hidden states, pooled.

        Args:
            pooling: `last` takes the last token's, `mean` the mean of all.
            normalize: scales the vector to length 1.
        """
        call = inference.embed(prompt, adapter, sticky_key, pooling, normalize)
        return self._driver.call(call, timeout)

    def classify(
        self,
        prompt: Prompt,
        adapter: str,
        *,
        pair: str | None = None,
        sticky_key: str | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Returns what an adapter's own head says of a prompt: for adapters that were trained to classify.

        `pair` is a second text, where those that it was trained on were two together.
        """
        return self._driver.call(inference.classify(prompt, adapter, pair, sticky_key), timeout)

    def classify_tokens(
        self,
        text: str,
        adapter: str,
        *,
        pair: str | None = None,
        sticky_key: str | None = None,
        timeout: float | None = None,
    ) -> TokenClassification:
        """Returns what an adapter's own head says of each token: for adapters that were trained to tag words, or to
        find the piece of `pair` that answers the question `text`."""
        call = inference.classify_tokens(text, adapter, pair, sticky_key)
        return self._driver.call(call, timeout)

    def tokenize(self, prompt: str | Sequence[Message], *, timeout: float | None = None) -> Tokens:
        """Returns a prompt's token ids as `generate` would see them."""
        return self._driver.call(inference.tokenize(prompt), timeout)

    def models(self) -> list[Model]:
        """Lists what a request may name: the base, then the registry's adapters."""
        return self._driver.run(all_pages(inference.models))

    def base(self, fingerprint: str, *, timeout: float | None = None) -> Base:
        """Returns what the registry knows of a base. Raises NotFound where it was never announced."""
        return self._driver.call(bases.get_base(fingerprint), timeout)

    def create_base(self, base: NewBase, *, timeout: float | None = None) -> Base:
        """Makes a base known, so that adapters for it are taken; one that is known stays as it is, but for its name."""
        return self._driver.call(bases.create_base(base), timeout)

    def versions(
        self,
        name: str | None = None,
        *,
        namespace: str | None = None,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
    ) -> list[Version]:
        """Lists an adapter's versions, newest first; without a name those of all adapters, in a namespace or in all.

        Args:
            filter: such as `base = "sha256:…" AND rank <= 16 AND labels.team = "x" AND metrics.exact >= 0.9`.
            order_by: `number`, `create_time`, `rank`, `size_bytes`, `parameters` or `metrics.KEY`; ` desc` behind it
                turns it round.
        """
        call = partial(registry.list_versions, name, namespace, filter, order_by, show_deleted)
        return self._driver.run(all_pages(call))

    def delete_version(
        self,
        name: str,
        number: int,
        *,
        force: bool = False,
        etag: str | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Deletes a version, which can be undeleted until its `purge_time`.

        Args:
            force: delete it though an alias points at it; what the alias means is then not there.
        """
        return self._driver.call(registry.delete_version(name, number, force, etag), timeout)

    def undelete_version(self, name: str, number: int, *, timeout: float | None = None) -> Version:
        """Brings a deleted version back as it was."""
        return self._driver.call(registry.undelete_version(name, number), timeout)

    def purge_version(self, name: str, number: int, *, timeout: float | None = None) -> None:
        """Removes a deleted version for good; its number is not given again."""
        self._driver.call(registry.purge_version(name, number), timeout)

    def resolve(
        self, reference: str, *, sticky_key: str | None = None, timeout: float | None = None
    ) -> Version:
        """Returns the version that a reference means now.

        Args:
            sticky_key: where the alias divides the requests, chooses the version that a request with this key gets;
                without it, the one that most requests get.
        """
        return self._driver.call(registry.resolve(reference, sticky_key), timeout)

    def aliases(self, name: str) -> list[Alias]:
        """Lists an adapter's aliases by name."""
        return self._driver.run(all_pages(partial(registry.list_aliases, name)))

    def set_alias(
        self, name: str, alias: str, target: Target, *, etag: str | None = None, why: str = ""
    ) -> Alias:
        """Points an alias at a version: its number, its digest, or any reference to it.

        Args:
            target: a mapping of such to weights divides the requests: `{3: 90, 4: 10}`.
            etag: the alias must still have it, else `Aborted`; `*` asks that the alias be new.
            why: for the alias's history.
        """
        return self._driver.run(registry.set_alias(name, alias, target, etag, why))

    def rollback_alias(
        self,
        name: str,
        alias: str,
        to: int | None = None,
        *,
        etag: str | None = None,
        why: str = "",
        timeout: float | None = None,
    ) -> Alias:
        """Points an alias at what it pointed at before; a deleted one is there again.

        Args:
            to: the number of the move whose outcome is to be brought back; where absent, the one before what holds
                now, and asked again, the one before that.
        """
        return self._driver.call(registry.rollback_alias(name, alias, to, etag, why), timeout)

    def alias_moves(self, name: str, alias: str) -> list[AliasMove]:
        """Lists an alias's moves, newest first; those of a deleted alias too."""
        return self._driver.run(all_pages(partial(registry.alias_moves, name, alias)))

    def delete_alias(
        self,
        name: str,
        alias: str,
        *,
        etag: str | None = None,
        why: str = "",
        timeout: float | None = None,
    ) -> None:
        """Deletes an alias; the versions and the alias's history stay."""
        self._driver.call(registry.delete_alias(name, alias, etag, why), timeout)

    def push(
        self,
        folder: str | Path,
        name: str,
        alias: str | None = None,
        *,
        lineage: AnyLineage | None = None,
        base: str | None = None,
        description: str = "",
        sign_key: str | Path | None = None,
        direct: bool = False,
        progress: Progress | None = None,
    ) -> Pushed:
        """Publishes a PEFT adapter folder as a version; a folder that is published already gives its version back.

        Args:
            alias: points at the version afterwards.
            lineage: where the version comes from; the folder's `lineage.json` where absent.
            base: the fingerprint of the base it was trained on, where it fits several; overrides the lineage's.
            description: what is new, in a sentence.
            sign_key: signs the version (OpenSSF model signing): a PEM file of an elliptic private key.
            direct: into the registry's own store where it signs links (S3), and else through the registry.
        """
        listener = progress or Silence()
        key = None if sign_key is None else Path(sign_key)
        return self._driver.run(
            push(Path(folder), name, alias, lineage, description, listener, base, key, direct)
        )

    def copy(self, reference: str, name: str) -> Version:
        """Makes what a reference means now a version of another adapter, which is made where it is new.

        No byte moves, and the digest stays. Into another registry: `lorry_client.exchange.copy_version`.
        """
        return self._driver.run(registry.copy(reference, name))

    def compose(self, composition: str | Composition, folder: str | Path) -> Path:
        """Fetches a composition as an adapter folder, with its lineage, to be pushed as a version of its own.

        Args:
            composition: `a*0.7+b*0.3`, or a `Composition`.
            folder: an empty one, made if missing.
        """
        return self._driver.run(compose(composition, Path(folder)))

    def pull(
        self,
        reference: str,
        folder: str | Path,
        *,
        direct: bool = False,
        progress: Progress | None = None,
    ) -> Pulled:
        """Fetches a version's files into a folder, verified by their digests.

        Args:
            direct: from the registry's own store where it signs links (S3), and else through the registry.
        """
        steps = pull(reference, Path(folder), progress or Silence(), direct)
        return self._driver.run(steps)

    def status(self, *, timeout: float | None = None) -> Status:
        """Returns what the server runs and how busy it is."""
        return self._driver.call(admin.status(), timeout)

    def residents(self, *, timeout: float | None = None) -> list[Resident]:
        """Lists the adapters that the server holds, those in slots first."""
        return self._driver.call(admin.residents(), timeout)

    def load(
        self, adapter: str | Composition, *, pin: bool = False, timeout: float | None = None
    ) -> Resident:
        """Brings an adapter into a slot and returns once it is there."""
        return self._driver.call(admin.load(adapter, pin), timeout)

    def pin(self, adapter: str, pinned: bool = True, *, timeout: float | None = None) -> Resident:
        """Pins a resident adapter, so that it is never evicted, or unpins it."""
        return self._driver.call(admin.pin(adapter, pinned), timeout)

    def unload(self, adapter: str, *, timeout: float | None = None) -> str:
        """Takes an adapter out of its slot once its requests have ended; returns its digest."""
        return self._driver.call(admin.unload(adapter), timeout)

    def merge(self, adapter: str | Composition, *, timeout: float | None = None) -> Merge:
        """Folds an adapter into copies of the weights, until it is unmerged or another is; returns once it acts so."""
        return self._driver.call(admin.merge(adapter), timeout)

    def unmerge(self, *, timeout: float | None = None) -> None:
        """Drops what is merged."""
        self._driver.call(admin.unmerge(), timeout)


class Adapters:
    """The adapters of the registry: `client.adapters`."""

    def __init__(self, driver: BlockingDriver) -> None:
        self._driver = driver

    def list(
        self,
        namespace: str | None = None,
        *,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
    ) -> list[Adapter]:
        """Lists adapters by name, in one namespace or in all.

        Args:
            filter: as AIP-160 writes it: `name = "intent*" AND labels.team = "x"`, `base = "sha256:…" AND rank <= 16`.
            order_by: `name`, `create_time`, `update_time` or `latest_version`; ` desc` behind it turns it round.
        """
        call = partial(registry.list_adapters, namespace, filter, order_by, show_deleted)
        return self._driver.run(all_pages(call))

    def get(self, name: str, *, timeout: float | None = None) -> Adapter:
        """Returns an adapter by `[namespace/]name`."""
        return self._driver.call(registry.get_adapter(name), timeout)

    def create(
        self,
        name: str,
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Adapter:
        """Creates an adapter without versions."""
        return self._driver.call(
            registry.create_adapter(name, description, labels, annotations), timeout
        )

    def update(
        self,
        name: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        etag: str | None = None,
        timeout: float | None = None,
    ) -> Adapter:
        """Changes what is given; with an etag, only where nobody else has changed it since."""
        call = registry.update_adapter(name, description, labels, annotations, etag)
        return self._driver.call(call, timeout)

    def delete(
        self,
        name: str,
        *,
        force: bool = False,
        etag: str | None = None,
        timeout: float | None = None,
    ) -> Adapter:
        """Deletes an adapter; one that has versions only with `force`, and the versions with it.

        It can be undeleted until its `purge_time`; one without versions is gone.
        """
        return self._driver.call(registry.delete_adapter(name, force, etag), timeout)

    def undelete(self, name: str, *, timeout: float | None = None) -> Adapter:
        """Brings a deleted adapter back as it was."""
        return self._driver.call(registry.undelete_adapter(name), timeout)

    def purge(self, name: str, *, timeout: float | None = None) -> None:
        """Removes a deleted adapter for good, and frees its name."""
        self._driver.call(registry.purge_adapter(name), timeout)


class AccessControl:
    """Who may do what: `client.access`."""

    def __init__(self, driver: BlockingDriver) -> None:
        self._driver = driver

    def caller(self, *, timeout: float | None = None) -> Caller:
        """Returns who this client is to the server, and what it may do."""
        return self._driver.call(access.caller(), timeout)

    def create_token(
        self,
        grants: Sequence[str],
        *,
        display_name: str = "",
        lifetime: timedelta | None = None,
        timeout: float | None = None,
    ) -> FreshToken:
        """Creates a token; its text is in the answer and can be had nowhere else.

        Args:
            grants: `role:namespace` or `role:*` each; roles are read, infer, publish, promote and admin.
            lifetime: None for a token that does not end by itself.
        """
        return self._driver.call(access.create_token(grants, display_name, lifetime), timeout)

    def tokens(self) -> list[Token]:
        """Lists the tokens that this client administers, newest first."""
        return self._driver.run(all_pages(access.list_tokens))

    def revoke_token(self, token_id: str, *, timeout: float | None = None) -> Token:
        """Ends a token's life; within two seconds no server takes it any more."""
        return self._driver.call(access.revoke_token(token_id), timeout)

    def create_namespace(
        self,
        name: str,
        *,
        description: str = "",
        quotas: Quotas | None = None,
        timeout: float | None = None,
    ) -> Namespace:
        """Creates a namespace with its quotas; one without any need not be created."""
        return self._driver.call(access.create_namespace(name, description, quotas), timeout)

    def namespace(self, name: str, *, timeout: float | None = None) -> Namespace:
        """Returns a namespace."""
        return self._driver.call(access.get_namespace(name), timeout)

    def namespaces(self) -> list[Namespace]:
        """Lists the namespaces in which this client has a role."""
        return self._driver.run(all_pages(access.list_namespaces))

    def update_namespace(
        self,
        name: str,
        *,
        description: str | None = None,
        quotas: Quotas | None = None,
        etag: str | None = None,
        timeout: float | None = None,
    ) -> Namespace:
        """Changes what is given; with an etag, only where nobody else has changed it since."""
        call = access.update_namespace(name, description, quotas, etag)
        return self._driver.call(call, timeout)

    def delete_namespace(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a namespace that has no adapters."""
        self._driver.call(access.delete_namespace(name), timeout)

    def audit(
        self, namespace: str | None = None, *, principal: str = "", limit: int = 100
    ) -> list[AuditEvent]:
        """Lists what was done and refused, newest first, in one namespace or in all that this client administers."""
        return self._driver.run(first_of(partial(access.audit, namespace, principal), limit))
