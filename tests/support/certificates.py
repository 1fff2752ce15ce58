"""Certificates for tests: an authority, and what it signs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pem:
    """A certificate with its chain, and its key."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """As files."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            path.write_bytes(content)
        return paths


class Authority:
    """Signs certificates."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.certificate = self._ca.cert_pem.bytes()
        self._chain = b""

    def server(self, not_before: datetime | None = None, not_after: datetime | None = None) -> Pem:
        """Of a server on this machine."""
        made = self._ca.issue_cert("localhost", "127.0.0.1", not_before=not_before, not_after=not_after)
        return Pem(b"".join(each.bytes() for each in made.cert_chain_pems), made.private_key_pem.bytes())

    def intermediate(self) -> "Authority":
        """One that this one vouches for; what it signs comes with its own certificate."""
        made = Authority.__new__(Authority)
        made._ca = self._ca.create_child_ca()
        made.certificate, made._chain = made._ca.cert_pem.bytes(), made._ca.cert_pem.bytes()
        return made

    def client(
        self,
        *names: str,
        begin: timedelta = timedelta(hours=-1),
        end: timedelta = timedelta(hours=1),
        usage: x509.ObjectIdentifier | None = None,
        san: bytes | None = None,
        chained: bool = True,
    ) -> Pem:
        """Of a client; names with a scheme are URIs, as SPIFFE's, others are addresses or DNS names.

        It holds from `begin` to `end`, counted from now, and for `usage` alone. `san`: the DER of a subjectAltName, whatever
        it is; without that and names there is none. `chained`: with the certificate of the intermediate that signs it.
        """
        authority = x509.load_pem_x509_certificate(self.certificate)
        signer = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not looked at")]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_name(name) for name in names]), False
            )
        if san is not None:
            oid = x509.SubjectAlternativeName.oid
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, san), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        made = builder.sign(signer, hashes.SHA256())
        return Pem(
            made.public_bytes(serialization.Encoding.PEM) + (self._chain if chained else b""),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
