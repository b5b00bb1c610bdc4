# SPDX-License-Identifier: Apache-2.0
"""TLS by two files, which are read again when they change: a certificate is renewed without a restart."""

import ssl
from pathlib import Path

import grpc
import structlog

log = structlog.get_logger(__name__)

_State = tuple[int, int]


class UnusableCertificate(Exception):
    """The files are no certificate and its key."""


class Certificate:
    """A chain and its key, both PEM."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Check them.

        Raises:
            UnusableCertificate: if they cannot be read, or do not belong together.
        """
        self._chain, self._key = chain, key
        self._seen = self._state()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """What a server speaks TLS with."""
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._first,
            self._renewed,  # type: ignore[arg-type]  # its types forget that None keeps what there is
            require_client_authentication=False,
        )
        return credentials

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files if they changed, asked for by gRPC at each handshake; None keeps what there is."""
        try:
            state = self._state()
            if state == self._seen:
                return None
            self._seen = state
            renewed = self._read()
        except UnusableCertificate as error:
            log.error("the certificate stays as it was", cause=str(error))
            return None
        log.info("certificate read again")
        return renewed

    def _state(self) -> tuple[_State, _State]:
        try:
            chain, key = self._chain.stat(), self._key.stat()
        except OSError as error:
            raise UnusableCertificate(f"{error.filename}: {error.strerror}") from error
        return (chain.st_mtime_ns, chain.st_ino), (key.st_mtime_ns, key.st_ino)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            # gRPC says of files that it cannot use no more than that the port could not be bound.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self._chain, self._key, password=_no_password
            )
            return grpc.ssl_server_certificate_configuration(
                [(self._key.read_bytes(), self._chain.read_bytes())]
            )
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UnusableCertificate(
                f"{self._chain} and {self._key} are no certificate and its key, both PEM, without a "
                f"password: {error}"
            ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")
