#!/bin/sh
# Installs what tests need beside Go, where it can: as root on Debian and its kin.
# It never fails: what it cannot install it names, and the tests that need it are
# skipped loudly (or fail, under SLUICE_REQUIRE). SLUICE_INSTALL=no leaves the
# machine alone. With the argument `bench` also what benchmarks compare with.
set -u

# The server's programs are not on PATH in Debian.
has_postgres() {
	command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}
has_chromium() {
	command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1
}
has_nginx() { command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ]; }
has_cc() {
	dir=$(mktemp -d) || return 1
	printf '#include <stdlib.h>\nint main(void) { return 0; }\n' >"$dir/a.c"
	"${CC:-cc}" -o "$dir/a" "$dir/a.c" >/dev/null 2>&1 || gcc -o "$dir/a" "$dir/a.c" >/dev/null 2>&1
	ok=$?
	rm -rf "$dir"
	return $ok
}

packages=
need() { packages="$packages $*"; }
command -v git >/dev/null 2>&1 || need git
has_cc || need gcc libc6-dev
has_postgres || need postgresql
has_chromium || need chromium
has_nginx || need nginx-light
for tool in python3 curl openssl jq; do # what tests start and ask with
	command -v "$tool" >/dev/null 2>&1 || need "$tool"
done
if [ "${1:-}" = bench ]; then
	command -v wrk >/dev/null 2>&1 || need wrk
fi
[ -n "$packages" ] || exit 0

if [ "${SLUICE_INSTALL:-yes}" = no ]; then
	echo "***** NOT INSTALLED, as SLUICE_INSTALL=no:$packages *****"
	exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "***** NOT INSTALLED:$packages *****"
	echo "      Only root on Debian or Ubuntu can: apt-get update && apt-get install$packages"
	exit 0
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
	rm -f "$log"
	[ -z "$made_policy" ] || rm -f "$policy"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
# The packages of PostgreSQL and nginx would start servers. Tests start their own.
if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' >"$policy" 2>/dev/null; then
	chmod 755 "$policy"
	made_policy=yes
fi

export DEBIAN_FRONTEND=noninteractive
echo "installing:$packages"
if ! apt-get update >"$log" 2>&1 </dev/null; then
	echo "***** apt-get update failed; trying with the lists that are here *****"
	tail -n 3 "$log"
fi
# One by one: what one lacks must not keep the others away.
for p in $packages; do
	if ! apt-get install -y --no-install-recommends "$p" >"$log" 2>&1 </dev/null; then
		echo "***** NOT INSTALLED: $p *****"
		tail -n 3 "$log"
	fi
done
exit 0
