"""TLS as a user of the gateway speaks it, to a gateway whose certificate we gave it ourselves."""

from __future__ import annotations

import socket
import ssl

from intermodal.rooms.deploy.revision import Exposure


def spoken(plain: socket.socket, exposure: Exposure) -> socket.socket:
    """The connection in TLS where the gateway speaks it, else as it is.

    The gateway chooses a certificate by the name that is asked for, so that name is said. The certificate is trusted by
    itself, because it is the file that the gateway was given; which names it holds is its owner's matter.
    """
    if not exposure.certificate:
        return plain
    context = ssl.create_default_context(cafile=exposure.certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context.wrap_socket(plain, server_hostname=None if exposure.host == "*" else exposure.host)
