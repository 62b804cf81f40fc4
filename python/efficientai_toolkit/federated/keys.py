"""Keys of a federation: TLS certificates of the server, and key pairs that name the clients."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import replace_file
from efficientai_toolkit.exceptions import ConfigError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_SECRET = 0o600


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Files of a folder of keys."""

    authority: Path
    """Certificate that clients check the server's by."""
    certificate: Path
    """Certificate of the server."""
    key: Path
    """Private key of the server."""
    clients: list[Path]
    """Private keys of the clients; beside each its public one, ending with ``.pub``."""

    @classmethod
    def at(cls, folder: Path) -> "Keys":
        """Return where the files of a folder are."""
        return cls(
            authority=folder / "ca.crt",
            certificate=folder / "server.pem",
            key=folder / "server.key",
            clients=sorted(folder.glob("client-*.key")),
        )

    @classmethod
    def in_folder(cls, folder: Path) -> "Keys":
        """Return the files of a folder.

        Raises
        ------
        ConfigError
            If one is missing, or the certificate has expired or begins later.
        """
        found = cls.at(folder)
        for path in (found.authority, found.certificate, found.key):
            if not path.is_file():
                message = f"{path} is missing; make keys with `federated-learning:keys --output {folder}`"
                raise ConfigError(message)
        check_certificate(found.authority)
        check_certificate(found.certificate)
        return found


def check_certificate(path: Path) -> None:
    """Check that a certificate can be read and is valid today.

    Raises
    ------
    ConfigError
        If it is not.
    """
    x509 = _load("x509")
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{path} is no certificate: {error}"
        raise ConfigError(message) from error
    now = dt.datetime.now(dt.UTC)
    if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
        message = (
            f"the certificate {path} is valid from {found.not_valid_before_utc:%Y-%m-%d} to "
            f"{found.not_valid_after_utc:%Y-%m-%d}; make a new one with `federated-learning:keys`"
        )
        raise ConfigError(message)


def make_keys(folder: Path, hosts: Sequence[str], clients: int, *, days: int = 365) -> Keys:
    """Make an authority, a certificate of the server for ``hosts``, and a key pair for each client.

    Private keys can be read by their owner only. That of the authority is not kept: nobody can issue further
    certificates.

    Raises
    ------
    ConfigError
        If the folder already holds keys, or a host is none.
    """
    if (folder / "server.key").exists():
        message = f"{folder} already holds keys; choose another folder"
        raise ConfigError(message)
    for host in hosts:
        if not host or any(letter.isspace() or letter == "/" for letter in host):
            message = f"{host!r} is no name or address of a host"
            raise ConfigError(message)
    ec = _load("hazmat.primitives.asymmetric.ec")
    authority_key, server_key = (
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP384R1()),
    )
    authority = _sign(
        "efficientai-toolkit federation", authority_key, None, authority_key, hosts=(), days=days
    )
    server = _sign(hosts[0], server_key, authority, authority_key, hosts=hosts, days=days)
    folder.mkdir(parents=True, exist_ok=True)
    serialization = _load("hazmat.primitives.serialization")
    pem = serialization.Encoding.PEM
    _write(folder / "ca.crt", authority.public_bytes(pem))
    _write(folder / "server.pem", server.public_bytes(pem))
    for number in range(clients):
        pair = ec.generate_private_key(ec.SECP384R1())
        path = folder / f"client-{number:03}.key"
        _write(path, _private(pair, serialization.PrivateFormat.OpenSSH), _SECRET)
        public = pair.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        _write(path.with_suffix(".pub"), public + b"\n")
    # Last: where it is, all others are.
    _write(folder / "server.key", _private(server_key, serialization.PrivateFormat.PKCS8), _SECRET)
    return Keys.at(folder)


def _sign(
    name: str,
    key: "EllipticCurvePrivateKey",
    issuer: "x509.Certificate | None",
    issuer_key: "EllipticCurvePrivateKey",
    *,
    hosts: Sequence[str],
    days: int,
) -> Any:
    x509, hashes = _load("x509"), _load("hazmat.primitives.hashes")
    oid = _load("x509.oid")
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name[:64])])
    now = dt.datetime.now(dt.UTC)
    is_authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of clients may be a little behind.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True
        )
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_name_host(x509, host) for host in hosts]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA384())


def _name_host(x509: Any, host: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: "EllipticCurvePrivateKey", form: Any) -> bytes:
    serialization = _load("hazmat.primitives.serialization")
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    def write(file: Any) -> None:
        path.with_name(f".{path.name}.efficientai-tmp").chmod(mode)
        file.write(content)

    replace_file(path, write)


def _load(module: str) -> Any:
    return require(f"cryptography.{module}", extra="federated", purpose="keys")
