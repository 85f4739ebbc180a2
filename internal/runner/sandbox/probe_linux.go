package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Probe runs one empty script in a whole sandbox. Where the host forbids that,
// the error wraps [ErrForbidden] and names the command that allows it.
func Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var out bytes.Buffer
	exit, err := Run(ctx, Config{Script: "exit 0", Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}}, &out)
	if err == nil && exit.OK() {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the probe ended with %s: %.200q", exit, out.String())
	}
	if !hooked || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w. %s", ErrForbidden, err, advice(readSysctl))
}

func readSysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// advice names what forbids namespaces and the command that allows them.
func advice(sysctl func(name string) string) string {
	const or = ", or use --isolation=none, only for code that you trust"
	switch {
	case sysctl("user/max_user_namespaces") == "0":
		return "Allow them with: sudo sysctl -w user.max_user_namespaces=15000" + or
	case sysctl("kernel/unprivileged_userns_clone") == "0":
		return "Allow them with: sudo sysctl -w kernel.unprivileged_userns_clone=1" + or
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "Allow them with: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" + or
	default:
		return "No known setting forbids them: Linux 5.12 or newer is needed, and a container must allow them (Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined)" + or
	}
}
