"""What TLS costs: a file of 10 MB in chunks to a server in the same process, over a UNIX socket and over TCP with TLS.

`python -m benchmarks.tls`
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from serving.channel import CHUNK_BYTES, open_blocking_channel
from serving.channel_security import ChannelSecurity
from tests.serving.certificates import Authority

FILE_BYTES = 10_000_000
ROUNDS = 30


class _Sink(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_unary_rpc_method_handler(lambda chunks, context: str(sum(map(len, chunks))).encode())


def _chunks() -> Iterator[bytes]:
    for start in range(0, FILE_BYTES, CHUNK_BYTES):
        yield bytes(min(CHUNK_BYTES, FILE_BYTES - start))


def median_s(address: str, security: ChannelSecurity) -> float:
    """Median seconds of sending the file, on a warm connection."""
    with open_blocking_channel(address, security) as channel:
        send: Any = channel.stream_unary("/benchmark/send")
        times = []
        for _ in range(ROUNDS + 3):
            start = time.perf_counter()
            assert int(send(_chunks(), timeout=60)) == FILE_BYTES
            times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def main() -> None:
    """Prints both and their ratio."""
    with tempfile.TemporaryDirectory(prefix="maifs-") as name:
        folder = Path(name)
        authority = Authority(folder)
        pair = authority.issue("server", "localhost")
        server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)])
        server.add_generic_rpc_handlers((_Sink(),))
        server.add_insecure_port(f"unix:{folder}/s")
        credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        unix_s = median_s(f"unix:{folder}/s", ChannelSecurity())
        tls_s = median_s(f"localhost:{port}", ChannelSecurity(ca_file=authority.file))
        server.stop(0).wait()
    print(f"UNIX socket {unix_s * 1000:.1f} ms, TLS {tls_s * 1000:.1f} ms, ratio {tls_s / unix_s:.2f}")


if __name__ == "__main__":
    main()
