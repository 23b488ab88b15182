#!/usr/bin/env bash
# Scan bills of materials for known vulnerabilities: images/scan-images.sh build/sbom/*.cdx.json
#
# By trivy or grype, whichever is installed; both fetch their database from the network. Exit code 1: something was found
# that is fixed in a newer version.
set -euo pipefail
[ $# -gt 0 ] && [ -e "$1" ] || { echo "error: no bills of materials; make sbom writes them" >&2; exit 2; }
if command -v trivy > /dev/null; then
    scan=(trivy sbom --quiet --ignore-unfixed --exit-code 1)
elif command -v grype > /dev/null; then
    scan=(grype --only-fixed --fail-on low)
else
    echo "error: no scanner; install trivy or grype, or give build/sbom/*.cdx.json to yours" >&2
    exit 2
fi
code=0
for bill in "$@"; do
    echo "== $bill"
    if [ "${scan[0]}" = grype ]; then "${scan[@]}" "sbom:$bill"; else "${scan[@]}" "$bill"; fi || code=1
done
exit $code
