"""Certificates: what fits, and what is wrong in words."""

import pytest
from bmsota_cloud.tls import server_context
from certificates import make_certificate

from bmsota.errors import ConfigurationError


def test_a_certificate_and_its_key_make_a_context(tmp_path):
    context = server_context(*make_certificate(tmp_path))
    assert context.minimum_version.name == "TLSv1_2"


def test_what_does_not_fit_is_said(tmp_path):
    cert, key = make_certificate(tmp_path)
    other_cert, other_key = make_certificate(tmp_path, "other")
    with pytest.raises(ConfigurationError, match=r"other\.key is not the private key of the certificate .*server\.crt"):
        server_context(cert, other_key)
    with pytest.raises(ConfigurationError, match=r"no such file: .*none"):
        server_context(cert, tmp_path / "none")
    with pytest.raises(ConfigurationError, match=r"cannot read .*: Is a directory"):
        server_context(tmp_path, key)
    with pytest.raises(ConfigurationError, match="expected a certificate and its private key"):
        server_context(key, cert)
    del other_cert


def test_a_key_with_a_password_is_refused_and_not_asked_for(tmp_path):
    """OpenSSL would ask at the terminal, and a service would hang."""
    cert, key = make_certificate(tmp_path, password=b"secret")
    with pytest.raises(ConfigurationError, match="without a password"):
        server_context(cert, key)
