#!/bin/sh
# All that a change has to pass: format, vet, static checks, generated code,
# architecture, and all tests with the race detector. What does not run is said
# loudly; SLUICE_REQUIRE=postgres,chromium,userns makes its absence a failure.
# The last line is plain: N passed, N failed, N skipped.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
export SLUICE_REQUIRE="${SLUICE_REQUIRE:-}"
PACKAGES=${PACKAGES:-./...} # of the steps that compile: less than all is for working on a part

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
totals=$work/totals
: >"$totals"
failed_checks=
seconds() { date +%s; }
started=$(seconds)

# check NAME COMMAND...: one line if it holds, and all it said if not.
check() {
	name=$1
	shift
	t=$(seconds)
	if "$@" >"$work/out" 2>&1 </dev/null; then
		echo "ok    $name  $(($(seconds) - t))s"
		echo "1 0 0" >>"$totals"
	else
		echo "FAIL  $name"
		sed 's/^/      /' "$work/out"
		echo "0 1 0" >>"$totals"
		failed_checks="$failed_checks $name"
	fi
}

sources() {
	find . -name '*.go' -not -name '*_templ.go' -not -path './.git/*' -not -path './.sluice/*' -not -path './bin/*'
}
formatted() {
	bad=$(sources | xargs "$("$GO" env GOROOT)/bin/gofmt" -l) || return 1
	[ -z "$bad" ] || {
		echo "not formatted; run: gofmt -w $bad"
		return 1
	}
}
# Example services are modules of their own, with tests of their own.
examples() {
	for mod in examples/*/go.mod; do
		[ -e "$mod" ] || continue
		(cd "$(dirname "$mod")" && "$GO" vet ./... && "$GO" test -timeout 5m ./...) || return 1
	done
}

sh scripts/prerequisites.sh

echo "== checks"
check format formatted
# shellcheck disable=SC2086 # the lists are meant to be split
check vet "$GO" vet $PACKAGES
# shellcheck disable=SC2086
check staticcheck "$GO" tool staticcheck $PACKAGES
check generated-code sh scripts/generate.sh check
check architecture "$GO" test -count=1 ./internal/archtest
check examples examples

race=-race
cat >"$work/a.c" <<'END'
#include <stdlib.h>
int main(void) { return 0; }
END
if $("$GO" env CC) -o "$work/a.out" "$work/a.c" >/dev/null 2>&1; then
	export CGO_ENABLED=1
else
	race=
	echo
	echo "***** NO C COMPILER: the tests run WITHOUT the race detector (apt-get install gcc libc6-dev) *****"
	echo
	echo "0 0 1" >>"$totals"
	case ",$SLUICE_REQUIRE," in
	,,) ;;
	*)
		echo "FAIL  race: SLUICE_REQUIRE is set, so the race detector is required"
		echo "0 1 0" >>"$totals"
		failed_checks="$failed_checks race"
		;;
	esac
fi

# What only starts programs has nothing for the detector to see: it is told once,
# without it, but for the story of internal/faults whose program is built with it.
# Ten thousand simulated worlds, the mutants, and the control plane's stories would
# take an hour under it: it plays some of each, and they are told whole without it.
# shellcheck disable=SC2086
listed=$("$GO" list $PACKAGES)
first=$(echo "$listed" | grep -v '/internal/archtest$') || true
stories=
if [ -n "$race" ]; then
	first=$(echo "$first" | grep -Ev '/cmd/sluice$|/internal/faults$') || true
	for p in internal/faults internal/control internal/demo internal/simtest cmd/sluice; do # the longest first
		if echo "$listed" | grep -q "/$p\$"; then stories="$stories ./$p"; fi
	done
fi

# tests NAME PACKAGES FLAGS... -count=1: a cached skip would outlive the reason for
# it. -vet=off: vet has run.
tests() {
	name=$1
	packages=$2
	shift 2
	# shellcheck disable=SC2086
	"$work/testsum" -totals "$totals" -- "$GO" test -json -vet=off -count=1 "$@" ${TESTFLAGS:-} $packages </dev/null ||
		failed_checks="$failed_checks $name"
}

"$GO" build -o "$work/testsum" ./scripts/testsum
if [ -n "$first" ]; then
	echo "== tests${race:+ with the race detector}"
	tests tests "$first" -p 2 -timeout 40m $race
fi
if [ -n "$stories" ]; then
	echo "== stories and simulation, without the race detector"
	SLUICE_SIM_TABLE="$work/simulation"
	export SLUICE_SIM_TABLE
	tests stories "$stories" -p 2 -timeout 40m
	cat "$work/simulation" 2>/dev/null || true
fi

echo
[ "$PACKAGES" = ./... ] || echo "***** ONLY A PART WAS TESTED: $PACKAGES *****"
[ -z "$failed_checks" ] || echo "FAILED:$failed_checks"
echo "took $(($(seconds) - started)) s; ${race:-no race detector}; SLUICE_REQUIRE=$SLUICE_REQUIRE"
[ -z "${SLUICE_TOTALS:-}" ] || cat "$totals" >>"$SLUICE_TOTALS"
awk '{ p += $1; f += $2; s += $3 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$totals"
[ -z "$failed_checks" ]
