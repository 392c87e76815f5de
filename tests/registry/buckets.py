"""An S3 of the tests' own: moto, on a thread."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """Its endpoint; AWS's variables lead to it, in this process and in those that it starts."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with mock.patch.dict(os.environ, variables):
        yield endpoint
    threaded.stop()


def new_bucket() -> str:
    """The URL of an empty bucket's prefix."""
    import s3fs

    name = f"lorry-{secrets.token_hex(8)}"
    s3fs.S3FileSystem().call_s3("create_bucket", Bucket=name)
    return f"s3://{name}/some/prefix"
