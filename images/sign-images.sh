#!/usr/bin/env bash
# Sign pushed images and attach their bills of materials: COSIGN_KEY=cosign.key images/sign-images.sh IMAGE ...
#
# cosign signs the digest that the registry gave to the push, never a tag, and puts the signature and the attestation
# beside the image in the registry. COSIGN_KEY: a file of `cosign generate-key-pair`, or an address of a key service.
set -euo pipefail
key=${COSIGN_KEY:?COSIGN_KEY= is needed: a file of cosign generate-key-pair, or awskms://, gcpkms://, hashivault://}
command -v cosign > /dev/null || { echo "error: cosign is not installed" >&2; exit 2; }
for image in "$@"; do
    docker image inspect "$image" > /dev/null 2>&1 || continue # not built here: the CUDA image, for one
    digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" |
        awk -v name="${image%:*}" -F @ '$1 == name { print; exit }')
    [ -n "$digest" ] || { echo "error: $image was not pushed from here: make push-images" >&2; exit 2; }
    bill=build/sbom/$(echo "$image" | tr /: __).cdx.json
    [ -e "$bill" ] || { echo "error: $bill is missing: make sbom" >&2; exit 2; }
    cosign sign --yes --key "$key" "$digest"
    cosign attest --yes --key "$key" --type cyclonedx --predicate "$bill" "$digest"
done
