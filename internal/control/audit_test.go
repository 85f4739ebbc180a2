package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
)

// leaves are the statements of a run, in order.
func (w *world) leaves(f store.LeafFilter) []store.Leaf {
	w.Helper()
	ls, err := w.front.Leaves(w.Context(), release.DefaultProject, f)
	w.must(err)
	return ls
}

// said writes a statement in one line, without what differs from time to time.
func (w *world) said(l store.Leaf) string {
	w.Helper()
	st, err := w.front.trusted.Verify(l.Envelope)
	w.must(err)
	var p map[string]any
	w.must(json.Unmarshal(st.Predicate, &p))
	name := strings.TrimPrefix(strings.TrimPrefix(l.PredicateType, "https://sluice.dev/"), "https://")
	line := []string{name}
	for _, k := range []string{"gate", "outcome", "result", "kind", "stage", "cause", "change", "command", "flag", "set", "phase", "from", "to", "step", "weight", "verdict", "decision", "what"} {
		v, ok := p[k]
		if !ok {
			continue
		}
		s := fmt.Sprint(v)
		if f, isNumber := v.(float64); isNumber && f == math.Trunc(f) {
			s = fmt.Sprintf("%d", int64(f))
		}
		if strings.HasPrefix(s, "sha256:") {
			s = "sha256:…"
		}
		if strings.HasPrefix(s, "rollout o") {
			s = "rollout …"
		}
		line = append(line, k+"="+s)
	}
	return strings.Join(line, " ")
}

// transcript are all statements of a run.
func (w *world) transcript(runID string) string {
	w.Helper()
	var b strings.Builder
	for _, l := range w.leaves(store.LeafFilter{Run: runID}) {
		fmt.Fprintln(&b, w.said(l))
	}
	return b.String()
}

// golden compares with testdata, or writes it under SLUICE_UPDATE.
func (w *world) golden(name, got string) {
	w.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("SLUICE_UPDATE") != "" {
		w.must(os.MkdirAll("testdata", 0o755))
		w.must(os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	w.must(err)
	if string(want) != got {
		w.Errorf("%s (SLUICE_UPDATE=1 writes it anew):\n%s\nwanted:\n%s", name, got, want)
	}
}

// audit holds what must be true after every story: replaying the events of a
// rollout rebuilds its state, each of its facts has its statement and no
// statement is without its fact, nobody applied a generation twice or backwards,
// and the whole log verifies offline.
func (w *world) audit() {
	w.Helper()
	if w.Failed() {
		return
	}
	leaves := w.leaves(store.LeafFilter{})
	stated := map[string]int{}
	for _, l := range leaves {
		if strings.HasPrefix(l.ID, "drift/") && !slices.ContainsFunc(w.hosts, func(h *fakeHost) bool { return h.touched }) {
			w.Errorf("it is told that somebody changed what a host runs, and nobody did: %s", w.said(l))
		}
		if strings.HasPrefix(l.ID, "rollout/") {
			stated[l.ID[:strings.LastIndex(l.ID, "/")]]++
		}
	}
	w.view(func(tx *store.Tx) error {
		rows, err := tx.Rollouts(store.RolloutFilter{})
		if err != nil {
			return err
		}
		for _, row := range rows {
			t, err := w.front.openTurn(tx, row.Project, row.ID)
			if err != nil {
				return err
			}
			events, err := tx.Events(row.Project, row.ID)
			if err != nil {
				return err
			}
			s := rollout.New(t.plan.Plan)
			for _, x := range events {
				var e rollout.Event
				if err := json.Unmarshal(x.Data, &e); err != nil {
					return err
				}
				before := s
				if s, _, err = rollout.Step(t.plan.Plan, s, e); err != nil {
					return fmt.Errorf("event %d of %s: %w", x.Seq, row.ID, err)
				}
				for i, f := range rollout.Facts(before, s, e) {
					id := fmt.Sprintf("rollout/%s/%d/%d", row.ID, x.Seq, i)
					if stated[id] == 0 {
						w.Errorf("fact %+v of %s has no statement %s", f, row.ID, id)
					}
					delete(stated, id)
				}
			}
			if s != t.state {
				w.Errorf("replay of %s:\n%+v\nstored:\n%+v", row.ID, s, t.state)
			}
		}
		return nil
	})
	for id := range stated {
		w.Errorf("statement %s has no fact", id)
	}
	for _, h := range w.hosts {
		for key, s := range h.services {
			for i := 1; i < len(s.journal); i++ {
				if s.journal[i].generation <= s.journal[i-1].generation {
					w.Errorf("%s applied %d after %d of %s", h.name, s.journal[i].generation, s.journal[i-1].generation, key)
				}
			}
		}
	}
	if len(leaves) == 0 {
		return
	}
	rep := w.export("")
	if rep.Statements != len(leaves) {
		w.Errorf("the bundle has %d statements of %d", rep.Statements, len(leaves))
	}
}

// export writes a bundle and verifies it.
func (w *world) export(id release.ID) evidence.Report {
	w.Helper()
	var b bytes.Buffer
	w.must(w.front.Export(w.Context(), &b, release.DefaultProject, id, true))
	rep, err := evidence.Verify(&b, evidence.VerifyOptions{})
	if err != nil || !rep.OK {
		w.Errorf("the exported evidence does not verify: %+v, %v", rep, err)
	}
	return rep
}
