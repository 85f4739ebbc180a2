#!/bin/sh
# Writes everything that is generated: templates and what `go:generate` names.
# With the argument `check` it does so in a copy, and fails with the difference;
# the working tree, however dirty, is left as it is.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}

generate() {
	# In the templates' own folder: generated code names them from there.
	find . -name '*.templ' -not -path './.git/*' -exec dirname {} \; | sort -u | while read -r dir; do
		(cd "$dir" && "$GO" tool templ generate -log-level error) || exit 1
	done
	"$GO" generate ./...
}

if [ "${1:-}" != check ]; then
	generate
	exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir "$work/before"
tar -cf - --exclude=./.git --exclude=./.sluice --exclude=./bin --exclude=node_modules . | tar -xf - -C "$work/before"
cp -R "$work/before" "$work/after"
cd "$work/after"
generate
cd "$work"
if ! diff -rqN before after >changed; then
	echo "generated files differ from what their sources give; run: make generate" >&2
	sed -n 's/^Files before\/\(.*\) and .*/  \1/p' changed >&2
	diff -ruN before after | head -n 40 >&2
	exit 1
fi
