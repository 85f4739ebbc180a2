package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// options say how much is measured.
type options struct {
	out   string
	only  string
	short bool // little of everything, to see that it works
	full  bool // the judge's table as judge.md wants it
	cpu   string
	use   string // program to measure instead of today's
}

// suite is one run of the command.
type suite struct {
	options
	ctx    context.Context
	dir    string // ours alone
	sluice string // the program
	// service is this program where anybody can run it: it plays the services.
	service string
	report  report
}

// part measures one thing.
type part struct {
	name string
	run  func(*suite) error
}

var parts = []part{
	{"start", startToReady},
	{"idle", idle},
	{"recovery", recovery},
	{"rollback", rollbacks},
	{"fleet", fleet},
	{"proxy", proxies},
	{"lint", lint},
	{"store", storeTimes},
	{"registry", registryTimes},
	{"judge", judge},
}

func main() {
	sandbox.MaybeRun()
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	var o options
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	flag.StringVar(&o.out, "o", "", "file to write; empty: standard output")
	flag.StringVar(&o.only, "only", "", "parts to measure, with commas: "+strings.Join(names, ","))
	flag.BoolVar(&o.short, "short", false, "measure little, to see that it works; the numbers mean nothing")
	flag.BoolVar(&o.full, "full", false, "simulate 2 000 rollouts per cell of the judge's table")
	flag.StringVar(&o.cpu, "cpuprofile", "", "file for a profile of this process: what runs inside of it is lint, verification, store and judge; the proxy, a process of its own, adds FILE.proxy")
	flag.StringVar(&o.use, "sluice", "", "program to measure, built already; empty: one is built from ./cmd/sluice")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func bench(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return fmt.Errorf("couldn't make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	s := &suite{options: o, ctx: ctx, dir: dir, sluice: filepath.Join(dir, "sluice")}
	s.report.load = loadNow() // before we build: that is ours
	if o.use != "" {
		if s.sluice, err = filepath.Abs(o.use); err != nil {
			return fmt.Errorf("couldn't find %s: %w", o.use, err)
		}
	} else if err := s.build(); err != nil {
		return err
	}
	if err := s.publish(); err != nil {
		return err
	}
	if o.cpu != "" {
		f, err := os.Create(o.cpu)
		if err != nil {
			return fmt.Errorf("couldn't write the profile: %w", err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("couldn't write the profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	began := time.Now()
	for _, p := range parts {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), p.name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		s.say("measuring: %s", p.name)
		if err := p.run(s); err != nil {
			s.say("NOT MEASURED: %s: %v", p.name, err)
			s.report.failed(p.name, err)
		}
	}
	text := s.report.markdown(time.Now(), time.Since(began), o)
	if o.out == "" {
		_, err := os.Stdout.WriteString(text)
		return errors.Join(err, s.report.incomplete())
	}
	if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
		return fmt.Errorf("couldn't write the report: %w", err)
	}
	s.say("wrote %s", o.out)
	return s.report.incomplete()
}

// publish copies this program, which plays the services too, to where the user
// that a service runs as can read it: what go run builds is root's alone.
func (s *suite) publish() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("couldn't find this program: %w", err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return fmt.Errorf("couldn't read this program: %w", err)
	}
	s.service = filepath.Join(s.dir, "service")
	if err := errors.Join(os.Chmod(s.dir, 0o755), os.WriteFile(s.service, b, 0o755)); err != nil {
		return fmt.Errorf("couldn't copy this program: %w", err)
	}
	return nil
}

func (s *suite) say(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }

// times is n, or few of it in a short run.
func (s *suite) times(n, few int) int {
	if s.short {
		return few
	}
	return n
}

func (s *suite) build() error {
	s.say("building sluice")
	build := exec.CommandContext(s.ctx, "go", "build", "-trimpath", "-o", s.sluice, "./cmd/sluice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("couldn't build sluice (run it in the repository's folder): %w", err)
	}
	return nil
}
