"""Ask one of the service's probes with a certificate: probe.py https://127.0.0.1:8000/health/ready /probe

It exits with 1 where the service does not answer, or answers with 503. Like the kubelet, it does not check the
service's own certificate, which does not name 127.0.0.1.
"""

import ssl
import sys
import urllib.request
from pathlib import Path

SECONDS = 4.0  # below the probes' timeoutSeconds


def main(address: str, folder: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        urllib.request.urlopen(address, timeout=SECONDS, context=context).close()
    except OSError as error:  # urllib's errors and ssl's are of this kind
        sys.exit(f"{address}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
