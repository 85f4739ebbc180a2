package compattest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/server"
	"github.com/sluicehq/sluice/internal/store"
)

// resumed is today's server on what a version left behind, with an agent that
// does what it is told.
func resumed(t *testing.T, version string, more ...string) (*plane, *host, expectations) {
	t.Helper()
	answers := answering(t, func(http.ResponseWriter, *http.Request) {})
	dir, want := unpack(t, version, answers.Listener.Addr().String(), more...)
	p, down := up(t, dir)
	h := &host{t: t, url: p.url, token: p.token, boot: "boot-2", answers: answers}
	h.start()
	t.Cleanup(func() { down(); h.end() })
	return p, h, want
}

// Whatever a version left in the middle, today's server brings to its end.
func TestResume(t *testing.T) {
	versions, err := os.ReadDir(folder(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		if !v.IsDir() {
			continue
		}
		t.Run(v.Name(), func(t *testing.T) { resume(t, v.Name()) })
	}
}

func resume(t *testing.T, version string) {
	p, h, want := resumed(t, version)
	covers(t, want.Cases)
	for _, c := range want.Cases {
		t.Run(c.Service, func(t *testing.T) {
			p := &plane{t: t, url: p.url, token: p.token}
			if c.Do != "" {
				person(p, c)
			}
			var s control.Status
			machinetest.Until(t, fmt.Sprintf("run %s has ended", c.Run), func() bool {
				s = p.status(c.Run)
				return ended(s.State)
			})
			if s.State != c.End {
				t.Fatalf("run %s was %s %s %v and ended %s, not %s: %s", c.Run, c.RunPhase, c.Phase, c.Flags, s.State, c.End, s.Reason)
			}
			h.traffic(t, c, s)
		})
	}
	if t.Failed() {
		return
	}
	var cells []control.Cell
	p.must("GET", "overview", nil, &cells)
	if len(cells) == 0 {
		t.Error("the overview is empty")
	}
	// What was signed before the upgrade and after it is one log.
	machinetest.Until(t, "the evidence verifies", func() bool {
		status, bundle := p.call("GET", "evidence/bundle", nil, nil)
		if status != http.StatusOK {
			t.Fatalf("the bundle was answered %d: %.300s", status, bundle)
		}
		rep, err := evidence.Verify(strings.NewReader(bundle), evidence.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return rep.OK
	})
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "alarm") {
			t.Errorf("the server had something to complain of: %s", line)
		}
		if strings.Contains(line, "is not taken") {
			t.Errorf("the host does not answer where the folder wants it: %s", line)
		}
	}
}

// person says what the case needs.
func person(p *plane, c case_) {
	p.t.Helper()
	at := "runs/" + c.Run + "/environments/" + c.Environment
	if c.Do != "approve" {
		p.must("POST", at+"/commands", map[string]string{"command": c.Do, "reason": "after the upgrade"}, nil)
		return
	}
	var packet struct{ Digest string }
	p.must("GET", at+"/packet", nil, &packet)
	p.must("POST", at+"/decisions", map[string]string{"packet": packet.Digest, "decision": "approve"}, nil)
}

// traffic checks who has it in the end: what the agent was told, not what the
// server believes.
func (h *host) traffic(t *testing.T, c case_, s control.Status) {
	t.Helper()
	e := s.Environments[0]
	wanted := map[string]string{"new": string(s.Release), "old": string(e.PreviousRelease), "none": ""}[c.Release]
	got := ""
	machinetest.Until(t, fmt.Sprintf("the traffic of %s is at the %s release", c.Service, c.Release), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		got = ""
		for k, d := range h.desired {
			if k.Service != c.Service {
				continue
			}
			for _, r := range d.Revisions {
				if r.Weight > 0 {
					got += string(r.Release)
				}
			}
		}
		return got == wanted
	})
}

// covers checks that a folder leaves nothing out.
func covers(t *testing.T, cases []case_) {
	t.Helper()
	var have []string
	for _, c := range cases {
		have = append(have, string(c.RunPhase))
		if c.RunPhase != run.Ended {
			have = append(append(have, c.Phase), c.Flags...)
		}
	}
	for _, w := range []string{
		string(run.Queued), string(run.Building), string(run.Promoting), string(run.Ended),
		string(rollout.Pending), string(rollout.Preparing), string(rollout.Shifting), string(rollout.Baking), string(rollout.Checking),
		string(rollout.Finishing), string(rollout.RollingBack), "held", "paused", "stuck",
	} {
		if !slices.Contains(have, w) {
			t.Errorf("the folder has nothing that is %s", w)
		}
	}
}

// The rows are where the folder says that they are, before anybody touches them.
// With -update the folder is written first, by today's code.
func TestFolder(t *testing.T) {
	if *update {
		write(t)
	}
	dir, want := unpack(t, version, "127.0.0.1:1")
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "sluice.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(t.Context(), func(tx *store.Tx) error {
		for _, c := range want.Cases {
			row, err := tx.Run("default", c.Run)
			if err != nil {
				return err
			}
			state, err := run.Decode(row.State)
			if err != nil {
				return err
			}
			if row.Service != c.Service || state.Phase != c.RunPhase {
				t.Errorf("run %s is %s of %s, not %s of %s", c.Run, state.Phase, row.Service, c.RunPhase, c.Service)
			}
			if c.Phase == "" {
				continue
			}
			ro, err := tx.Rollout("default", state.Environments[0].Rollout)
			if err != nil {
				return err
			}
			if !ro.Live || ro.Phase != c.Phase {
				t.Errorf("the rollout of %s is %s (live %t), not %s", c.Service, ro.Phase, ro.Live, c.Phase)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What a newer version wrote is left alone, and who asks is told why; everything
// else goes on.
func TestNewerRows(t *testing.T) {
	newer := map[string]string{
		"pending":   `UPDATE rollouts SET engine = 99 WHERE live AND service = 'pending'`,
		"preparing": `UPDATE rollouts SET state = json_set(state, '$.v', 99) WHERE live AND service = 'preparing'`,
		"shifting":  `UPDATE rollouts SET judge = json_set(judge, '$.v', 99) WHERE live AND service = 'shifting'`,
		"queued":    `UPDATE runs SET state = json_set(state, '$.v', 99) WHERE live AND service = 'queued'`,
		"baking":    `UPDATE rollouts SET plan = json_set(plan, '$.engine', 99) WHERE live AND service = 'baking'`,
	}
	var more []string
	for _, s := range newer {
		more = append(more, s)
	}
	p, _, want := resumed(t, version, more...)
	for _, c := range want.Cases {
		if newer[c.Service] != "" {
			continue
		}
		if c.Service == "finishing" || c.Service == "rolling-back" {
			machinetest.Until(t, c.Service+" goes on beside rows that are not understood", func() bool { return p.status(c.Run).State == c.End })
		}
	}
	before := rows(t, p.dir)
	for _, c := range want.Cases {
		if newer[c.Service] == "" {
			continue
		}
		machinetest.Until(t, "the log names "+c.Service, func() bool { return strings.Contains(p.log.String(), "newer") })
		status, text := p.call("GET", "runs/"+c.Run, nil, nil)
		if c.Service != "baking" && (status < 400 || !strings.Contains(text, "newer")) {
			t.Errorf("%s, written by a newer version, was answered %d: %s", c.Service, status, text)
		}
		status, text = p.call("POST", "runs/"+c.Run+"/environments/production/commands", map[string]string{"command": "abort", "reason": "x"}, nil)
		if status < 400 || !strings.Contains(text, "newer") {
			t.Errorf("a command for %s, written by a newer version, was answered %d: %s", c.Service, status, text)
		}
	}
	after := rows(t, p.dir)
	for service := range newer {
		if !bytes.Equal(before[service], after[service]) {
			t.Errorf("the state of %s was changed:\n%s\n%s", service, before[service], after[service])
		}
	}
}

// rows are the states of live rollouts and runs, by service.
func rows(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	db, err := open(filepath.Join(dir, "sluice.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found, err := db.QueryContext(t.Context(), "SELECT service, state FROM rollouts WHERE live UNION ALL SELECT service, state FROM runs WHERE live AND service = 'queued'")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		var service string
		var state []byte
		if err := found.Scan(&service, &state); err != nil {
			t.Fatal(err)
		}
		out[service] = state
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// A database with a newer contract is not even opened.
func TestNewerContract(t *testing.T) {
	dir, _ := unpack(t, version, "127.0.0.1:1", `UPDATE meta SET value = '99' WHERE key = 'contract'`)
	err := server.Run(context.WithoutCancel(t.Context()), server.Options{Dir: dir, Addr: "127.0.0.1:0", NoAgent: true, Log: quiet()})
	if err == nil || !strings.Contains(err.Error(), "newer") || !strings.Contains(err.Error(), "99") {
		t.Errorf("the server said: %v", err)
	}
}
