"""Objects in an S3 bucket, through s3fs. Credentials, region and endpoint are found as AWS's own tools find them.

s3fs brings the connections, the retries and a loop of their own on a thread of its own; the calls are S3's, since
what the promises here rest on (creating only where nothing is, assembling by copies) has no word among fsspec's.
"""

import errno
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from lorry_registry.errors import FailedPrecondition, Unavailable
from lorry_registry.links import LINK_SECONDS, Link
from lorry_registry.objects import StoredObject

MIN_PART_BYTES = 5 << 20
"""S3 assembles an object from no smaller parts, but for the last."""
_DELETES_A_CALL = 1000
_MAX_COPY_BYTES = 5 << 30  # S3 copies no larger object at once
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_ATTEMPTS = 3


class S3Objects:
    """The objects of `bucket` whose keys begin with `prefix`, which no key here repeats.

    Raises:
        FailedPrecondition: `BLOBS_UNWRITABLE`, there is no such bucket or it cannot be written; `BLOBS_UNSUITABLE`,
            the store overwrites where it is asked to create; `MODULE_MISSING`.
        Unavailable: `BLOBS_UNAVAILABLE`.
    """

    part_bytes = 8 << 20

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import s3fs
        except ModuleNotFoundError as error:
            raise FailedPrecondition(
                "what S3 needs is not installed: pip install 'lorry[s3]'",
                reason="MODULE_MISSING",
                module=error.name,
            ) from error
        self._bucket = bucket
        self._prefix = prefix
        self._s3 = s3fs.S3FileSystem(
            use_listings_cache=False,
            config_kwargs={
                # What older signatures leave out of a link, its holder could change: the size, and creating only.
                "signature_version": "s3v4",
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
                "max_pool_connections": 32,
            },
        )
        self._s3.retries = 1  # botocore's own suffice
        self._check_suitable()

    def create(self, key: str, data: bytes) -> StoredObject | None:
        try:
            made = self._call("put_object", Key=self._at(key), Body=data, IfNoneMatch="*")
        except FileExistsError:
            return None
        # What is told of a new object has no time; nobody asks for one's age.
        return StoredObject(key, len(data), made["ETag"], 0.0)

    def look(self, key: str) -> StoredObject | None:
        try:
            found = self._call("head_object", Key=self._at(key))
        except FileNotFoundError:
            return None
        return StoredObject(
            key, found["ContentLength"], found["ETag"], found["LastModified"].timestamp()
        )

    def find(self, prefix: str) -> Iterator[StoredObject]:
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._at(prefix), **more)
            for one in page.get("Contents", ()):
                yield StoredObject(
                    one["Key"].removeprefix(self._prefix),
                    one["Size"],
                    one["ETag"],
                    one["LastModified"].timestamp(),
                )
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, key: str, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        with _s3_errors():
            data: bytes = self._s3.cat_file(
                f"{self._bucket}/{self._at(key)}", start=start, end=stop
            )
        return data

    def sign_read(self, key: str) -> Link:
        return self._sign("get_object", key, {})

    def sign_create(self, key: str, *, size_bytes: int) -> Link:
        create = {"If-None-Match": "*"}
        return self._sign("put_object", key, create, IfNoneMatch="*", ContentLength=size_bytes)

    def assemble(self, parts: Sequence[StoredObject], key: str) -> None:
        if not parts:
            self._call("put_object", Key=self._at(key), Body=b"")
            return
        if len(parts) == 1:
            with _changed_is_gone():
                self._call("copy_object", Key=self._at(key), **self._source(parts[0]))
            return
        upload = self._call("create_multipart_upload", Key=self._at(key))["UploadId"]
        try:
            done = [
                {"PartNumber": number, "ETag": self._add_part(key, upload, number, group)}
                for number, group in enumerate(_grouped(parts), start=1)
            ]
            self._call(
                "complete_multipart_upload",
                Key=self._at(key),
                UploadId=upload,
                MultipartUpload={"Parts": done},
            )
        except BaseException:
            # What this leaves where it fails too is collected as an abandoned assembly.
            with suppress(Exception):
                self._call("abort_multipart_upload", Key=self._at(key), UploadId=upload)
            raise

    def touch(self, key: str) -> None:
        found = self.look(key)
        if found is None or found.size_bytes > _MAX_COPY_BYTES:
            return  # it keeps its age: a push that meets its collection sends it again
        self._call(
            "copy_object",
            Key=self._at(key),
            CopySource={"Bucket": self._bucket, "Key": self._at(key)},
            MetadataDirective="REPLACE",
        )

    def move(self, key: str, target: str) -> None:
        source = {"Bucket": self._bucket, "Key": self._at(key)}
        self._call("copy_object", Key=self._at(target), CopySource=source)
        self.delete([key])

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _DELETES_A_CALL):
            named = [{"Key": self._at(key)} for key in keys[start : start + _DELETES_A_CALL]]
            answer = self._call("delete_objects", Delete={"Objects": named, "Quiet": True})
            for failed in answer.get("Errors", ())[:1]:
                raise OSError(
                    errno.EIO, f"{failed['Key']} was not deleted: {failed.get('Message')}"
                )

    def abandoned(self, prefix: str) -> Iterator[StoredObject]:
        more: dict[str, str] = {}
        while True:
            page = self._call("list_multipart_uploads", Prefix=self._at(prefix), **more)
            for one in page.get("Uploads", ()):
                yield StoredObject(
                    one["Key"].removeprefix(self._prefix),
                    0,
                    one["UploadId"],
                    one["Initiated"].timestamp(),
                )
            if not page.get("IsTruncated"):
                return
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def abandon(self, assembly: StoredObject) -> None:
        with suppress(FileNotFoundError):
            self._call("abort_multipart_upload", Key=self._at(assembly.key), UploadId=assembly.tag)

    def close(self) -> None:
        """Nothing: the connections belong to s3fs, which ends them with the process."""

    def _at(self, key: str) -> str:
        return self._prefix + key

    def _source(self, part: StoredObject) -> dict[str, Any]:
        return {
            "CopySource": {"Bucket": self._bucket, "Key": self._at(part.key)},
            "CopySourceIfMatch": part.tag,
        }

    def _add_part(self, key: str, upload: str, number: int, group: list[StoredObject]) -> str:
        place: dict[str, Any] = {"Key": self._at(key), "UploadId": upload, "PartNumber": number}
        if len(group) == 1:
            with _changed_is_gone():
                copied = self._call("upload_part_copy", **place, **self._source(group[0]))
            return str(copied["CopyPartResult"]["ETag"])
        data = b"".join(self.read(part.key, 0, part.size_bytes) for part in group)
        return str(self._call("upload_part", **place, Body=data)["ETag"])

    def _sign(self, verb: str, key: str, headers: dict[str, str], **arguments: Any) -> Link:
        expire_time = datetime.now(UTC) + timedelta(seconds=LINK_SECONDS)
        path = f"{self._bucket}/{self._at(key)}"
        with _s3_errors():
            url = self._s3.url(path, expires=LINK_SECONDS, client_method=verb, **arguments)
        return Link(url, expire_time, headers)

    def _call(self, verb: str, **arguments: Any) -> Any:
        with _s3_errors():
            return self._s3.call_s3(verb, Bucket=self._bucket, **arguments)

    def _check_suitable(self) -> None:
        """Whether the bucket is there, can be written, and creates only where nothing is."""
        key = f"probe/{secrets.token_hex(8)}"
        try:
            self.create(key, b"first")
            second = self.create(key, b"second")
            self.delete([key])
        except (OSError, FailedPrecondition) as error:
            raise FailedPrecondition(
                f"the bucket {self._bucket!r} cannot be written ({error}): create it, or correct the credentials",
                reason="BLOBS_UNWRITABLE",
                bucket=self._bucket,
            ) from error
        if second is not None:
            raise FailedPrecondition(
                f"the store of the bucket {self._bucket!r} overwrites an object that it was asked to create "
                "(`If-None-Match: *`): two pushes of one file would mix; use a store that keeps to it",
                reason="BLOBS_UNSUITABLE",
                bucket=self._bucket,
            )


def _grouped(parts: Sequence[StoredObject]) -> Iterator[list[StoredObject]]:
    """Parts in groups of which each, but for the last, has MIN_PART_BYTES; as small as that allows."""
    group: list[StoredObject] = []
    for part in parts:
        group.append(part)
        if sum(one.size_bytes for one in group) >= MIN_PART_BYTES:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def _changed_is_gone() -> Iterator[None]:
    """A part that is not what it was, as one that is gone."""
    try:
        yield
    except FileExistsError as error:  # what s3fs makes of a precondition that does not hold
        raise FileNotFoundError(str(error)) from error


@contextmanager
def _s3_errors() -> Iterator[None]:
    """What does not come as an OSError already is that S3 cannot be reached."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise FailedPrecondition(
            f"there are no credentials for the bucket ({error}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "a profile",
            reason="BLOBS_UNWRITABLE",
        ) from error
    except (BotoCoreError, ClientError, TimeoutError, ConnectionError) as error:
        raise _unavailable(error) from error
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EAGAIN):  # S3 asks to slow down
            raise _unavailable(error) from error
        raise


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        f"the store of the registry's blobs is busy or away ({error}): retry",
        reason="BLOBS_UNAVAILABLE",
    )
