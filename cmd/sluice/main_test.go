package main

import (
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

var update = flag.Bool("update", false, "write the golden parts of the scripts anew")

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	testscript.Main(m, map[string]func(){"sluice": main, "load": load})
}

// TestScripts runs testdata/script: the command line as users type it, every
// sluice a process of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("..", "..", "testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, ".home")
			e.Setenv("HOME", home)
			for _, k := range []string{"SLUICE_SERVER", "SLUICE_TOKEN", "NO_COLOR"} {
				e.Setenv(k, "")
			}
			for k, v := range map[string]string{
				"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
				"GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
				"GIT_CONFIG_GLOBAL": os.DevNull, "GIT_CONFIG_SYSTEM": os.DevNull,
			} {
				e.Setenv(k, v)
			}
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":       code,
			"eventually": eventually,
			"ports":      ports,
			"bundle":     bundle,
			"tamper":     tamper,
			"build":      build,
			"match":      match,
		},
	})
}

// code N PROGRAM ARGS… runs a program that must end with exit code N. Its output
// is for stdout and stderr, as after exec.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program [args…]")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("code: %v", err)
	}
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		got = ended.ExitCode()
	} else if err != nil {
		ts.Fatalf("code: %v", err)
	}
	if got != want {
		ts.Fatalf("%v ended with code %d, want %d", args[1:], got, want)
	}
}

// eventually PATTERN PROGRAM ARGS… runs a program again and again until it ends
// well with output that matches, on either stream.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN program [args…]")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(machinetest.Patience); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")+ts.ReadFile("stderr")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v did not come to %q within %s: %v", args[1:], args[0], machinetest.Patience, err)
		}
	}
}

// ports NAME… sets variables to free ports.
func ports(ts *testscript.TestScript, neg bool, names []string) {
	if neg {
		ts.Fatalf("usage: ports NAME…")
	}
	for _, n := range names {
		_, port, err := net.SplitHostPort(porttest.Free(ts))
		ts.Check(err)
		ts.Setenv(n, port)
	}
}

// build FILE builds the service that the scripts release: see testdata/service.
func build(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: build FILE")
	}
	c := exec.Command("go", "build", "-trimpath", "-o", ts.MkAbs(args[0]), "./testdata/service")
	if out, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("couldn't build the service: %v\n%s", err, out)
	}
}

// match FILE NAME PATTERN sets a variable to the first group of a pattern in a
// file; the file may be stdout or stderr.
func match(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: match FILE NAME PATTERN")
	}
	m, err := firstGroup(args[2], ts.ReadFile(args[0]))
	ts.Check(err)
	ts.Setenv(args[1], m)
}
