"""HTTPS for the devices of one's own network, without which their browsers give no camera."""

import pathlib
import shutil
import socket
import ssl
import subprocess
import tempfile

from convmixer_keras.utils.errors import InputError


def own_address():
    """Returns the address by which other devices of the network reach this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing; the address is reserved for examples.
        except OSError:
            raise InputError("--network: this machine is not connected to a network") from None
        return probe.getsockname()[0]


def secure(server, address):
    """Lets a server speak only HTTPS, with a certificate made for this one run.

    Args:
        server: A threading `http.server`.
        address: The IP address that browsers will ask for.

    Raises:
        InputError: If openssl is not installed.
    """
    if shutil.which("openssl") is None:
        raise InputError("--network needs the program openssl to make a certificate")
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = pathlib.Path(folder, "key.pem"), pathlib.Path(folder, "certificate.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "30", "-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}",
             "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    # The handshake is left to the thread of its connection, so that a slow one does not block the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
