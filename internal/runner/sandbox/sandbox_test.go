package sandbox_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	os.Exit(m.Run())
}

func run(t *testing.T, cfg sandbox.Config) (string, sandbox.Exit) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = "/tmp"
	}
	cfg.Env = append(cfg.Env, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/tmp")
	var out bytes.Buffer
	exit, err := sandbox.Run(context.Background(), cfg, &out)
	if err != nil {
		t.Fatalf("Run: %v\n%s", err, out.String())
	}
	return strings.TrimSpace(out.String()), exit
}

func TestX(t *testing.T) {
	out, exit := run(t, sandbox.Config{Script: "id; ls -la / /dev /etc; cat /proc/self/status | grep -iE 'cap|nonew|ppid'; ps ax; cat /proc/self/mountinfo; ip a; ulimit -a; unshare -Ur id; ls -la /proc/1/; cat /proc/1/environ; env"})
	t.Log(out, exit)
}
