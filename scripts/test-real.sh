#!/bin/sh
# Tests that need a large real component. Each is a module of its own below
# testdata/real, so that its dependencies are not ours.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
totals=$work/totals
: >"$totals"
failed=

sh scripts/prerequisites.sh
"$GO" build -o "$work/testsum" ./scripts/testsum
for mod in testdata/real/*/go.mod; do
	[ -e "$mod" ] || continue
	dir=$(dirname "$mod")
	echo "== $dir"
	cd "$dir"
	"$work/testsum" -totals "$totals" -- "$GO" test -json -count=1 -p 2 -timeout 25m ./... </dev/null || failed="$failed $dir"
	cd "$root"
done
[ -s "$totals" ] || echo "there are no modules below testdata/real yet"

echo
[ -z "$failed" ] || echo "FAILED:$failed"
[ -z "${SLUICE_TOTALS:-}" ] || cat "$totals" >>"$SLUICE_TOTALS"
awk '{ p += $1; f += $2; s += $3 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$totals"
[ -z "$failed" ]
