# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import trustme

from blemish_server.settings import ServerSettings
from blemish_server.transport.tls import Certificate, UnusableCertificate


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert("localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key


def test_a_certificate_and_its_key_serve(authority: trustme.CA, tmp_path: Path) -> None:
    assert Certificate(*issue(authority, tmp_path)).credentials()


def test_what_is_none_is_refused_with_the_files(authority: trustme.CA, tmp_path: Path) -> None:
    chain, key = issue(authority, tmp_path)
    with pytest.raises(UnusableCertificate, match=r"nowhere\.pem: No such file"):
        Certificate(chain, tmp_path / "nowhere.pem")
    with pytest.raises(UnusableCertificate, match="are no certificate and its key"):
        Certificate(key, chain)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UnusableCertificate, match="mismatch"):
        Certificate(chain, issue(authority, other)[1])


def test_renewed_files_are_taken_when_they_belong_together(authority: trustme.CA, tmp_path: Path) -> None:
    chain, key = issue(authority, tmp_path)
    certificate = Certificate(chain, key)
    assert certificate._renewed() is None
    other = tmp_path / "other"
    other.mkdir()
    new_chain, new_key = issue(authority, other)
    new_chain.replace(chain)
    assert certificate._renewed() is None  # the key is still the old one
    new_key.replace(key)
    assert certificate._renewed() is not None
    assert certificate._renewed() is None
    key.unlink()
    assert certificate._renewed() is None


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        ServerSettings(tls_certificate=tmp_path / "chain.pem")
