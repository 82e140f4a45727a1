"""One prefix of one S3 bucket: where the credentials come from, requests that always end, refusals in one line."""

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from paribus.config import Section
from paribus.errors import MissingExtra, RemoteError

NUM_THREADS = 8  # requests at once; a part each, so 64 MiB of memory
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 4, 20
NUM_ATTEMPTS = 4  # of each request: an endpoint that does not answer is given up after 4 x 4 s and 7 s of pauses
CHUNK = 2**20  # bytes handed on at a time while reading
PART = 8 * 2**20  # bytes a request: S3 takes 5 MiB at least, and
MAX_PARTS = 10_000  # of them, so that files of more than 80 GB have larger ones
DOTENV_LINE = re.compile(r"\s*(?:export\s+)?(AWS_\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^#]*?))\s*(?:#.*)?")
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
WRONG_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403")


class RemoteConfig(Section):
    """Where a folder lies on S3."""

    url: str = Field(description="s3://BUCKET/PREFIX", pattern=r"^s3://[^/]+(/.*)?$")
    endpoint_url: str | None = Field(
        None, description="a server other than Amazon's; default: AWS_ENDPOINT_URL, from the environment or from .env"
    )


def locate(remote: RemoteConfig | str, endpoint_url: str | None = None) -> RemoteConfig:
    """The place that a URL names; `endpoint_url` has the last word. Raises RemoteError when it names none."""
    if isinstance(remote, RemoteConfig):
        return remote if endpoint_url is None else RemoteConfig(url=remote.url, endpoint_url=endpoint_url)
    if not re.fullmatch(r"s3://[^/]+(/.*)?", remote):
        raise RemoteError(f"{remote!r}: expected s3://BUCKET/PREFIX")
    return RemoteConfig(url=remote, endpoint_url=endpoint_url)


class Stored(NamedTuple):
    """What the server says of an object."""

    size: int
    etag: str


def part_size(size: int) -> int:
    """Bytes of each part but the last of an object of `size` bytes."""
    return max(PART, -(-size // MAX_PARTS))


def md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def etag(digests: Sequence[bytes]) -> str:
    """What S3 calls an object whose parts have these MD5s: one part's MD5, else the MD5 of them all and their number.

    Objects encrypted with keys of KMS have other names."""
    if len(digests) < 2:
        return (digests[0] if digests else md5(b"")).hex()
    return f"{md5(b''.join(digests)).hex()}-{len(digests)}"


class Prefix:
    """The objects below one prefix, by their paths relative to it.

    Every method raises RemoteError, in one line, when the server does not answer or refuses."""

    def __init__(self, config: RemoteConfig) -> None:
        """Sends nothing yet. Raises MissingExtra without botocore, RemoteError without usable settings."""
        self.bucket, _, prefix = config.url.removeprefix("s3://").partition("/")
        self._start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{self.bucket}/{self._start}".rstrip("/")
        self._client = _client(config.endpoint_url, self.url)

    def stored(self) -> dict[str, Stored]:
        """Every object that is there."""
        found: dict[str, Stored] = {}
        after: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._start, **after)
            for item in page.get("Contents", ()):
                found[item["Key"].removeprefix(self._start)] = Stored(item["Size"], item["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return found
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of an object from `offset` on; a stream that breaks off is taken up where it broke."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        attempt = 1
        while True:
            body = self._call("get_object", Key=self._start + path, Range=f"bytes={offset}-")["Body"]
            try:
                for chunk in body.iter_chunks(CHUNK):
                    yield chunk
                    offset, attempt = offset + len(chunk), 1
                return
            except (HTTPClientError, IncompleteReadError) as error:
                attempt += 1
                if attempt > NUM_ATTEMPTS:
                    raise self._in_words(error) from error

    def put(self, path: str, body: bytes) -> str:
        """Write an object, whole or not at all: the server compares the MD5 with what arrived. Returns its ETag."""
        return self._etag(self._call("put_object", Key=self._start + path, Body=body, ContentMD5=_content_md5(body)))

    def delete(self, path: str) -> None:
        self._call("delete_object", Key=self._start + path)

    def begin_parts(self, path: str) -> tuple[str, dict[int, str]]:
        """Begin an object of many parts, or find one that was never finished: its id, and the ETags of what it has."""
        from botocore.exceptions import ClientError

        key = self._start + path
        with contextlib.suppress(ClientError):  # a right that not everybody has, and that only saves time
            uploads = self._client.list_multipart_uploads(Bucket=self.bucket, Prefix=key).get("Uploads", ())
            for upload in (u for u in uploads if u["Key"] == key):
                pages = self._client.get_paginator("list_parts").paginate(
                    Bucket=self.bucket, Key=key, UploadId=upload["UploadId"]
                )
                parts = [part for page in pages for part in page.get("Parts", ())]
                return upload["UploadId"], {part["PartNumber"]: self._etag(part) for part in parts}
        return self._call("create_multipart_upload", Key=key)["UploadId"], {}

    def put_part(self, path: str, upload: str, number: int, body: bytes) -> str:
        """Write part `number`, from 1, of an object; returns its ETag."""
        arguments = {"UploadId": upload, "PartNumber": number, "Body": body, "ContentMD5": _content_md5(body)}
        return self._etag(self._call("upload_part", Key=self._start + path, **arguments))

    def finish_parts(self, path: str, upload: str, etags: list[str]) -> str:
        """Make the object out of its parts; only now it is there. Returns its ETag."""
        parts = {"Parts": [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(etags, 1)]}
        arguments = {"UploadId": upload, "MultipartUpload": parts}
        return self._etag(self._call("complete_multipart_upload", Key=self._start + path, **arguments))

    def _etag(self, answer: Mapping[str, Any]) -> str:
        return str(answer["ETag"]).strip('"')

    def _call(self, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, operation)(Bucket=self.bucket, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: Exception) -> RemoteError:
        """What happened, and what to do about it."""
        from botocore.exceptions import (
            ClientError,
            HTTPClientError,
            IncompleteReadError,
            NoCredentialsError,
            PartialCredentialsError,
            SSLError,
        )
        from botocore.exceptions import ConnectionError as NoConnection

        endpoint = self._client.meta.endpoint_url
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            wanted = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment or in .env, or `aws configure`"
            some = "only half of the" if isinstance(error, PartialCredentialsError) else "no"
            return RemoteError(f"{self.url}: {some} S3 credentials; {wanted}")
        broken = isinstance(error, HTTPClientError | IncompleteReadError | NoConnection)
        if broken and not isinstance(error, SSLError):
            again = "check the endpoint and the network; the same command goes on from here"
            return RemoteError(f"{self.url}: {endpoint} does not answer ({type(error).__name__}); {again}")
        if not isinstance(error, ClientError):
            return RemoteError(f"{self.url}: {_one_line(error)}")
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        if code in WRONG_CREDENTIALS:
            which = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (environment, .env, or ~/.aws)"
            return RemoteError(f"{self.url}: {endpoint} refused the S3 credentials ({code}); {which}")
        if code == "NoSuchBucket":
            return RemoteError(f"{self.url}: {endpoint} has no bucket {self.bucket!r}; create it, or correct the URL")
        return RemoteError(f"{self.url}: {endpoint} refused {error.operation_name} ({code}: {_one_line(message)})")


def _client(endpoint_url: str | None, url: str) -> Any:
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ModuleNotFoundError:
        raise MissingExtra(f"{url}: botocore is not installed; pip install 'paribus[s3]'") from None

    dotenv = read_dotenv(Path(".env"), os.environ)
    setting = {**dotenv, **os.environ}.get
    endpoint_url = endpoint_url or setting("AWS_ENDPOINT_URL_S3") or setting("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": NUM_ATTEMPTS},
        max_pool_connections=NUM_THREADS,
        # servers other than Amazon's: no bucket in the host name, and MD5 is the checksum that all of them know
        s3={"addressing_style": "path"} if endpoint_url else None,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = Session(profile=dotenv.get("AWS_PROFILE"))
        region = setting("AWS_REGION") or setting("AWS_DEFAULT_REGION") or session.get_config_variable("region")
        return session.create_client(
            "s3",
            region_name=region or "us-east-1",
            endpoint_url=endpoint_url,
            aws_access_key_id=dotenv.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=dotenv.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=dotenv.get("AWS_SESSION_TOKEN"),
            config=config,
        )
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise RemoteError(f"{url}: {_one_line(error)}") from error


def read_dotenv(file: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The AWS_ settings of a `.env` that the environment does not have; {} without such a file.

    Credentials count as one setting: a key from here never meets a secret or a profile from there."""
    if not file.is_file():
        return {}
    matches = [DOTENV_LINE.fullmatch(line) for line in file.read_text(errors="replace").splitlines()]
    settings = {m[1]: next(value for value in m.groups()[1:] if value is not None) for m in matches if m}
    hidden = set(environment)
    if not hidden.isdisjoint(CREDENTIALS):
        hidden.update(CREDENTIALS)
    return {key: value for key, value in settings.items() if key not in hidden}


def _content_md5(body: bytes) -> str:
    return base64.b64encode(md5(body)).decode()


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
