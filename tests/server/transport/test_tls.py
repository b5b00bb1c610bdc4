# SPDX-License-Identifier: Apache-2.0
"""Certificates, as a TLS client receives them over a unix socket."""

import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from blemish_server.settings import ServerSettings
from blemish_server.transport.tls import Certificate, UnusableCertificate


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Write a new certificate and its key to a folder."""
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert("localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key


def leaf(chain: Path) -> bytes:
    """Return the first certificate of a chain, DER."""
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(chain.read_text().partition(end)[0] + end)


@contextmanager
def served(certificate: Certificate) -> Iterator[str]:
    """Serve with a certificate; yield the path of the unix socket."""
    # pytest's folders can be longer than the name of a socket may be.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_secure_port(f"unix:{folder}/tls", certificate.credentials())
        server.start()
        try:
            yield f"{folder}/tls"
        finally:
            server.stop(None).wait()


def presented(path: str) -> bytes:
    """Return the certificate that a new connection receives, DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(10)
        plain.connect(path)
        with context.wrap_socket(plain) as connection:
            certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def test_server_presents_the_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    chain, key = issue(authority, tmp_path)
    with served(Certificate(chain, key)) as path:
        assert presented(path) == leaf(chain)


def test_unusable_certificate_is_rejected_with_its_files(authority: trustme.CA, tmp_path: Path) -> None:
    chain, key = issue(authority, tmp_path)
    with pytest.raises(UnusableCertificate, match=r"nowhere\.pem: No such file"):
        Certificate(chain, tmp_path / "nowhere.pem")
    with pytest.raises(UnusableCertificate, match="are not a certificate and its key"):
        Certificate(key, chain)
    with pytest.raises(UnusableCertificate, match="mismatch"):
        Certificate(chain, issue(authority, tmp_path / "other")[1])


def test_renewed_certificate_is_presented_once_its_key_fits(authority: trustme.CA, tmp_path: Path) -> None:
    chain, key = issue(authority, tmp_path)
    old = leaf(chain)
    with served(Certificate(chain, key)) as path:
        assert presented(path) == old
        new_chain, new_key = issue(authority, tmp_path / "other")
        new = leaf(new_chain)
        new_chain.replace(chain)
        assert presented(path) == old, "the key is still the old one"
        new_key.replace(key)
        assert presented(path) == new != old
        key.unlink()
        assert presented(path) == new


def test_certificate_without_key_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        ServerSettings(tls_certificate=tmp_path / "chain.pem")
