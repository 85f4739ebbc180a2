#!/bin/sh
# Runs every fuzz target for a while: fuzz.sh [10s]. Go fuzzes one target at a time.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
time=${1:-10s}
list=$(mktemp)
trap 'rm -f "$list"' EXIT
trap 'exit 1' INT TERM

grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' cmd internal scripts 2>/dev/null | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		echo "$(dirname "$file") $target"
	done
done | sort >"$list"

passed=0
failed=0
while read -r dir target; do
	echo "== $dir $target"
	if "$GO" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$dir" </dev/null; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
done <"$list"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
