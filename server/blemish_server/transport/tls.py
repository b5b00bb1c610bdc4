# SPDX-License-Identifier: Apache-2.0
"""TLS with a certificate that can be renewed without a restart."""

import ssl
from pathlib import Path

import grpc
import structlog

log = structlog.get_logger(__name__)

_FileState = tuple[int, int]


class UnusableCertificate(Exception):
    """The certificate or its key cannot be read, or they do not belong together."""


class Certificate:
    """A certificate chain and its key, two PEM files that are read again when they change."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read the files.

        Raises:
            UnusableCertificate: if they cannot be read, or do not belong together.
        """
        self._chain, self._key = chain, key
        self._state = self._read_state()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a server that uses the certificate."""
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._first,
            self._read_if_changed,  # type: ignore[arg-type]  # the stubs lack None, which changes nothing
            require_client_authentication=False,
        )
        return credentials

    def _read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificate if its files changed; gRPC calls this at each handshake."""
        try:
            state = self._read_state()
            if state == self._state:
                return None
            self._state = state
            certificate = self._read()
        except UnusableCertificate as error:
            log.error("certificate not reloaded", cause=str(error))
            return None
        log.info("certificate reloaded")
        return certificate

    def _read_state(self) -> tuple[_FileState, _FileState]:
        try:
            chain, key = self._chain.stat(), self._key.stat()
        except OSError as error:
            raise UnusableCertificate(
                f"{error.filename}: {error.strerror}; check BLEMISH_TLS_CERTIFICATE and BLEMISH_TLS_KEY"
            ) from error
        return (chain.st_mtime_ns, chain.st_ino), (key.st_mtime_ns, key.st_ino)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            # gRPC reports unusable files only as a port that could not be bound, so check them here.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self._chain, self._key, password=_reject_password
            )
            return grpc.ssl_server_certificate_configuration(
                [(self._key.read_bytes(), self._chain.read_bytes())]
            )
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UnusableCertificate(
                f"{self._chain} and {self._key} are not a certificate and its key: {error}; use PEM files "
                "without a password"
            ) from error


def _reject_password() -> str:
    raise ValueError("the key has a password")
