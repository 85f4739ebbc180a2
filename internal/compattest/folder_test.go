package compattest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
)

// version is what today's code would write.
const version = "v1"

func folder(version string) string { return filepath.Join("..", "..", "testdata", "compat", version) }

// case_ is one run of the folder: where it stood, and where it must come to.
type case_ struct {
	Run         string      `json:"run"`
	Service     string      `json:"service"`
	Environment string      `json:"environment,omitempty"`
	RunPhase    run.Phase   `json:"runPhase"`
	Phase       string      `json:"phase,omitempty"` // of its live rollout
	Flags       []string    `json:"flags,omitempty"`
	Do          string      `json:"do,omitempty"` // what a person has to say
	End         run.Outcome `json:"end"`
	Release     string      `json:"runsAfter,omitempty"` // new, old or none: what has the traffic in the end
}

// expectations go with the folder.
type expectations struct {
	Addresses []string `json:"addresses"` // where the services answered
	Cases     []case_  `json:"cases"`
}

// script is what the second release of each service is, and what becomes of it.
type script struct {
	service string
	rollout string // beyond the canary
	more    string // of the environment
	first   bool   // nothing was released before
	bad     bool   // half of its answers are errors
	want    case_
}

const firstService = "first"

var scripts = []script{
	{service: "pending", want: case_{Phase: "pending", End: run.Succeeded}},
	{service: "preparing", want: case_{Phase: "preparing", End: run.Succeeded}},
	{service: "shifting", want: case_{Phase: "shifting", End: run.Succeeded}},
	{service: "baking", want: case_{Phase: "baking", End: run.Succeeded}},
	{service: "checking", more: "    verify: [{name: smoke, http: {path: /, status: 200, timeout: 60s}}]\n", want: case_{Phase: "checking", End: run.Succeeded}},
	{service: "finishing", want: case_{Phase: "finishing", End: run.Succeeded}},
	{service: "rolling-back", bad: true, want: case_{Phase: "rolling-back", End: run.RolledBack}},
	{service: "stuck", bad: true, rollout: ", rollbackTimeout: 1s", want: case_{Phase: "rolling-back", Flags: []string{"stuck"}, End: run.RolledBack}},
	{service: "held", want: case_{Phase: "baking", Flags: []string{"held"}, End: run.Succeeded}},
	{service: "paused", want: case_{Phase: "baking", Flags: []string{"paused"}, Do: "resume", End: run.Succeeded}},
	{service: "paused-bad", want: case_{Phase: "baking", Flags: []string{"paused"}, Do: "abort", End: run.RolledBack}},
	{service: firstService, first: true, want: case_{Phase: "shifting", End: run.Succeeded}},
	{service: "approval", first: true, more: "    approval: {quorum: 1}\n", want: case_{RunPhase: run.Promoting, Do: "approve", End: run.Succeeded}},
	{service: "queued", first: true, want: case_{RunPhase: run.Queued, End: run.Succeeded}},
	{service: "building", first: true, want: case_{RunPhase: run.Building, End: run.Succeeded}},
	{service: "broken", first: true, want: case_{RunPhase: run.Ended, End: run.Failed}},
	{service: "bad", bad: true, want: case_{RunPhase: run.Ended, End: run.RolledBack}},
	{service: "cancelled", first: true, more: "    approval: {quorum: 1}\n", want: case_{RunPhase: run.Ended, End: run.Cancelled}},
}

// definition is a service's file, first with version 1.
func (s script) definition(version int) string {
	env := fmt.Sprintf("VERSION: '%d'", version)
	if s.bad && version > 1 {
		env += ", " + badEnv + ": 'yes'"
	}
	more, command := s.more, "mkdir out && cp app out/app"
	if version == 1 {
		more = ""
	}
	if version > 1 && s.service == "building" {
		command = "sleep 2; " + command
	}
	if version > 1 && s.service == "broken" {
		command = "exit 7"
	}
	return fmt.Sprintf(`version: 1
service: %s
owner: team-compat
build:
  steps: [{name: make, kind: package, run: '%s'}]
  artifact: {type: files, path: out}
environments:
  - name: production
    target: {type: host, listen: '127.0.0.1:`+port+`', run: ./app, health: {http: /healthz}, env: {%s}}
%s    rollout: {canary: {steps: [{weight: 10, bake: 5s}]}%s}
    analysis: {warmUp: 0s, bin: 1s, maxExcess: 5, metrics: [http-errors]}
`, s.service, command, env, more, s.rollout)
}

// write makes the folder of this version: what a version left behind is not made
// again by a later one. It is TestFolder's, with -update.
func write(t *testing.T) {
	t.Helper()
	repo := filepath.Join(os.TempDir(), "sluice-compat")
	if err := os.Mkdir(repo, 0o700); err != nil {
		t.Fatal(err) // its path is written down, so it has to be this one
	}
	t.Cleanup(func() { _ = os.RemoveAll(repo) })
	git(t, repo, nil, "init", "-q", "-b", "main")
	commit := func(version int) {
		for _, s := range scripts {
			if version == 1 && s.first {
				continue
			}
			for name, text := range map[string]string{"sluice.yaml": s.definition(version), "app": "#!/bin/sh\nexec serve\n"} {
				path := filepath.Join(repo, s.service, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o755)); err != nil {
					t.Fatal(err)
				}
			}
		}
		git(t, repo, nil, "add", "-A")
		git(t, repo, nil, "commit", "-q", "-m", fmt.Sprintf("version %d", version))
	}

	dir := t.TempDir()
	p, down := up(t, dir)
	slow := hanging(t)
	x := &tricks{weight: map[release.ID]int{}}
	h := &host{t: t, url: p.url, token: p.token, boot: "boot-1"}
	addresses := []string{slow.Listener.Addr().String()}
	start := func(s script) string {
		var started struct{ Run string }
		p.must("POST", "runs", map[string]string{"repository": repo, "path": s.service + "/sluice.yaml"}, &started)
		return started.Run
	}
	commit(1)
	h.start()
	t.Cleanup(func() { slow.CloseClientConnections(); slow.Close() })
	addresses = append(addresses, h.answers.Listener.Addr().String())
	firsts := map[string]string{}
	for _, s := range scripts {
		if !s.first {
			firsts[s.service] = start(s)
		}
	}
	for service, id := range firsts {
		machinetest.Until(t, service+" is out", func() bool {
			s := p.status(id)
			if ended(s.State) && s.State != run.Succeeded {
				t.Fatalf("the first release of %s is %s: %s", service, s.State, s.Reason)
			}
			return s.State == run.Succeeded
		})
	}

	// From here on the host misbehaves, and two rows are kept asleep as if the
	// server had died before they woke up.
	h.mu.Lock()
	h.trick = func(s *wire.Service, d wire.Desired) {
		x.apply(s, d)
		if s.Service == "checking" {
			s.Address = slow.Listener.Addr().String()
		}
	}
	h.quiet = func(service string) bool { return service == "held" }
	h.mu.Unlock()
	db, err := open(filepath.Join(dir, "sluice.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for table, service := range map[string]string{"rollouts": "pending", "runs": "queued"} {
		_, err := db.ExecContext(t.Context(), fmt.Sprintf("CREATE TRIGGER asleep_%[1]s AFTER INSERT ON %[1]s WHEN NEW.service = '%[2]s' BEGIN UPDATE %[1]s SET wake_at = NULL WHERE project = NEW.project AND id = NEW.id; END", table, service))
		if err != nil {
			t.Fatal(err)
		}
	}
	commit(2)
	var kept expectations
	order := slices.Clone(scripts)
	last := func(s script) int { // these pass by themselves, so they begin last
		return slices.Index([]string{"baking", "building"}, s.service)
	}
	slices.SortStableFunc(order, func(a, b script) int { return last(a) - last(b) })
	arrived := func(c case_) bool {
		s := p.status(c.Run)
		e := s.Environments[0]
		if c.RunPhase == run.Ended {
			return s.State == c.End
		}
		if ended(s.State) {
			t.Fatalf("%s has ended: %s, %s", c.Service, s.State, s.Reason)
		}
		switch {
		case c.RunPhase == run.Queued:
			return e.Phase == ""
		case c.RunPhase == run.Building:
			return slices.ContainsFunc(s.Steps, func(s run.Step) bool { return s.State == "running" })
		case c.RunPhase == run.Promoting && c.Phase == "":
			return e.WaitingFor != "" && e.Rollout == ""
		case c.Phase == "baking" && len(c.Flags) == 0:
			return string(e.Phase) == c.Phase && e.Bake != nil && e.Bake.ElapsedSeconds >= 1
		}
		for _, f := range c.Flags {
			if f == "stuck" && !e.Stuck || f == "paused" && !e.Paused || f == "held" && e.Held == "" {
				return false
			}
		}
		return string(e.Phase) == c.Phase
	}
	add := func(c case_) {
		if c.RunPhase == "" {
			c.RunPhase = run.Promoting
		}
		c.Environment = "production"
		machinetest.Until(t, fmt.Sprintf("%s is %s %s %v", c.Service, c.RunPhase, c.Phase, c.Flags), func() bool {
			if s := p.status(c.Run); slices.Contains(c.Flags, "paused") && s.Environments[0].Phase == "baking" && !s.Environments[0].Paused {
				p.must("POST", "runs/"+c.Run+"/environments/production/commands", map[string]string{"command": "pause", "reason": "lunch"}, nil)
			}
			if c.Service == "cancelled" && p.status(c.Run).Environments[0].Packet != "" {
				_, _ = p.call("POST", "runs/"+c.Run+"/abort", map[string]string{"reason": "not today"}, nil)
			}
			return arrived(c)
		})
		kept.Cases = append(kept.Cases, c)
	}
	for _, s := range order {
		c := s.want
		c.Service, c.Run = s.service, start(s)
		c.Release = "new"
		switch {
		case c.End != run.Succeeded && s.first:
			c.Release = "none"
		case c.End != run.Succeeded:
			c.Release = "old"
		}
		add(c)
	}
	for _, c := range kept.Cases {
		if c.RunPhase != run.Ended && !arrived(c) {
			t.Fatalf("%s moved on before the folder could be written", c.Service)
		}
	}

	to := folder(version)
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755)); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := dump(t.Context(), filepath.Join(dir, "sluice.db"), &text); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "DROP TRIGGER asleep_rollouts; DROP TRIGGER asleep_runs"); err != nil {
		t.Fatal(err)
	}
	text.WriteString("-- The server died before these woke up.\n" +
		"UPDATE rollouts SET wake_at = created_at WHERE live AND wake_at IS NULL AND phase = 'pending';\n" +
		"UPDATE runs SET wake_at = created_at WHERE live AND wake_at IS NULL AND service = 'queued';\n")
	down()
	h.end()
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(text.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	keep(t, to, "sluice.sql.gz", packed.Bytes())
	keep(t, to, "repository.txt", []byte(git(t, repo, nil, "fast-export", "--all")))
	kept.Addresses = addresses
	b, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	keep(t, to, "expect.json", append(b, '\n'))
	for _, f := range []string{"token", "registry.key", "keys", "registry", "blobs"} {
		err := filepath.WalkDir(filepath.Join(dir, f), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			keep(t, to, filepath.Join("data", rel), untrusted(b))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all int64
	_ = filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if i, err := d.Info(); err == nil && !d.IsDir() {
			all += i.Size()
		}
		return err
	})
	t.Logf("%d cases, %d bytes", len(kept.Cases), all)
}

func keep(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// Scanners of secrets would report the keys of the folder, which protect nothing.
const realKey, testKey = "PRIVATE KEY", "TESTING KEY"

func untrusted(b []byte) []byte { return bytes.ReplaceAll(b, []byte(realKey), []byte(testKey)) }

func trusted(b []byte) []byte { return bytes.ReplaceAll(b, []byte(testKey), []byte(realKey)) }

// unpack makes a data folder that a server can start on, and says what to expect.
func unpack(t *testing.T, version string, answers string, more ...string) (string, expectations) {
	t.Helper()
	from, dir := folder(version), filepath.Join(t.TempDir(), "data")
	b, err := os.ReadFile(filepath.Join(from, "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want expectations
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	copyTree(t, filepath.Join(from, "data"), dir)
	keys, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(keys) == 0 {
		t.Fatalf("no keys in %s: %v", dir, err)
	}
	for _, k := range keys {
		b, err := os.ReadFile(k)
		if err := errors.Join(err, os.WriteFile(k, trusted(b), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	repo := filepath.Join(t.TempDir(), "repo")
	if err := os.Mkdir(repo, 0o700); err != nil {
		t.Fatal(err)
	}
	git(t, repo, nil, "init", "-q", "-b", "main")
	stream, err := os.ReadFile(filepath.Join(from, "repository.txt"))
	if err != nil {
		t.Fatal(err)
	}
	git(t, repo, bytes.NewReader(stream), "fast-import", "--quiet")
	// The machine is another one: its paths and ports are others.
	statements := []string{"UPDATE runs SET repository = '" + strings.ReplaceAll(repo, "'", "''") + "' WHERE repository <> ''"}
	for _, a := range want.Addresses {
		statements = append(statements, fmt.Sprintf("UPDATE observed SET report = replace(report, '%s', '%s')", a, answers))
	}
	if err := load(t.Context(), filepath.Join(from, "sluice.sql.gz"), filepath.Join(dir, "sluice.db"), append(statements, more...)...); err != nil {
		t.Fatal(err)
	}
	return dir, want
}
