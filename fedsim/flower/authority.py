"""An authority of one's own, a server's certificate by it, and a pair of keys for each device: owner-only files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=365)


@dataclass(frozen=True)
class Keys:
    """Where they are. What devices need is `authority`, and each its own private key."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate that devices check the server's by."""
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's."""
        return self.folder / "server.pem"

    @property
    def private(self) -> Path:
        """The server's key."""
        return self.folder / "server.key"

    def device(self, client: int) -> Path:
        """A device's private key; the public one ends in `.pub`."""
        return self.folder / f"client-{client}.key"

    @classmethod
    def made(cls, folder: Path, clients: int, hosts: Sequence[str]) -> Keys:
        """New ones, for a server under these names or addresses. The authority's own key is kept nowhere."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys, root, own = cls(folder), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = _name("fedsim authority")
        usage = [x509.BasicConstraints(ca=True, path_length=0), _signing()]
        keys.authority.write_bytes(_signed(root, issuer, issuer, root.public_key(), usage))
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        serving = [names, x509.BasicConstraints(ca=False, path_length=None),
                   x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]  # fmt: skip
        keys.certificate.write_bytes(_signed(root, issuer, _name(hosts[0]), own.public_key(), serving))
        _hidden(keys.private, _pem(own, serialization.PrivateFormat.PKCS8))
        for client in range(clients):
            pair = ec.generate_private_key(ec.SECP384R1())  # Flower takes NIST curves in OpenSSH's format
            _hidden(keys.device(client), _pem(pair, serialization.PrivateFormat.OpenSSH))
            public = pair.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            keys.device(client).with_suffix(".pub").write_bytes(public)
        return keys


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _signing() -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False,
                         data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                         encipher_only=False, decipher_only=False)  # fmt: skip


def _signed(
    root: ec.EllipticCurvePrivateKey, issuer: x509.Name, subject: x509.Name, public: ec.EllipticCurvePublicKey,
    extensions: Sequence[x509.ExtensionType],
) -> bytes:  # fmt: skip
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), now, now + VALID)
    for extension in extensions:
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical)
    return builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _hidden(path: Path, content: bytes) -> None:
    """A file that nobody but its owner could ever read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
