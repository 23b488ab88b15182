"""Sign and check the statements that images/sbom.py writes, without a registry and without a service.

    python images/attest.py sign FOLDER --key private.pem       # FOLDER/*.statement.json -> *.intoto.json
    python images/attest.py verify FOLDER --key public.pem      # exit code 1 if one of them does not match

A signed statement is an in-toto attestation in a DSSE envelope, which cosign and other programs read. The key is one of
openssl's: ``openssl genpkey -algorithm ed25519 -out private.pem``, and for the public one
``openssl pkey -in private.pem -pubout -out public.pem``.
"""

import argparse
import json
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT, _SIGNED = ".statement.json", ".intoto.json"


def sign(statement: Path, key: Path) -> Path:
    """Write the signed form of ``statement`` beside it; return its path."""
    private = load_pem_private_key(key.read_bytes(), None)
    envelope = Envelope(statement.read_bytes(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private))
    signed = statement.with_name(statement.name.removesuffix(_STATEMENT) + _SIGNED)
    signed.write_text(json.dumps(envelope.to_dict(), indent=1) + "\n", encoding="utf-8")
    return signed


def verified(signed: Path, key: Path) -> dict:
    """Return the statement in ``signed``.

    Raises:
        VerificationError: the key did not sign it, or it was changed since.
    """
    envelope = Envelope.from_dict(json.loads(signed.read_text(encoding="utf-8")))
    if envelope.payload_type != PAYLOAD_TYPE:
        raise VerificationError(f"it holds {envelope.payload_type}, not an in-toto statement")
    envelope.verify([SSlibKey.from_crypto(load_pem_public_key(key.read_bytes()))], 1)
    return json.loads(envelope.payload)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["sign", "verify"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", type=Path, required=True)
    arguments = parser.parse_args()
    ending = _STATEMENT if arguments.action == "sign" else _SIGNED
    files = sorted(arguments.folder.glob(f"*{ending}"))
    if not files:
        sys.exit(f"error: {arguments.folder}: no *{ending} there; make sbom writes the statements")
    for file in files:
        try:
            if arguments.action == "sign":
                print(f"signed: {sign(file, arguments.key)}")
                continue
            (subject,) = verified(file, arguments.key)["subject"]
        except (OSError, ValueError, KeyError, UnsupportedAlgorithm, VerificationError) as error:
            sys.exit(f"error: {file}: not {arguments.action}ed with {arguments.key}: {error}")
        print(f"{file}: signed for {subject['name']} sha256:{subject['digest']['sha256']}")


if __name__ == "__main__":
    main()
