package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// packet is what waits for a decision in production.
func (w *world) packet(runID string) (release.Digest, Packet) {
	w.Helper()
	w.until(runID, "waiting for approval", func(s Status) bool { return s.Environments[0].Packet != "" })
	p, err := w.front.PacketOf(w.Context(), "default", runID, "production")
	w.must(err)
	if got := release.DigestOf(p.Body); got != p.Digest {
		w.Errorf("the packet's digest is %s, it is kept as %s", got, p.Digest)
	}
	again, err := release.Canonical(json.RawMessage(p.Body))
	if err != nil || !bytes.Equal(again, p.Body) {
		w.Errorf("the packet is not canonical: %s, %v", p.Body, err)
	}
	var x Packet
	w.must(json.Unmarshal(p.Body, &x))
	return p.Digest, x
}

func (w *world) decide(runID string, p release.Digest, approve bool, by release.Actor) error {
	return w.front.Decide(w.Context(), "default", runID, "production", p, approve, "because", by)
}

// The packet holds what an approver needs; when what runs changed meanwhile it
// is made anew, and a decision on the old one is answered with the difference.
func TestPacketMoves(t *testing.T) {
	stories(t, func(w *world) {
		def := w.definition(approved)
		r1, v1 := w.ship(def, "v1")
		d1, p1 := w.packet(r1)
		if p1.Previous != "" || p1.RollbackPlan.Kind != "none" || p1.Release != v1 || p1.Owner != "team-shop" || p1.Tests.Passed != 7 || p1.Isolation != "namespaces" || len(p1.Gates) == 0 || len(p1.Plan.Steps) == 0 {
			w.Errorf("the packet of the first release: %+v", p1)
		}
		w.must(w.decide(r1, d1, true, bob))
		w.untilState(r1, run.Succeeded)

		r2, v2 := w.ship(def, "v2", setting("production", "LIMIT", "5"))
		d2, p2 := w.packet(r2)
		if p2.Previous != v1 || p2.RollbackPlan.To != v1 || p2.RollbackPlan.Kind != "warm" || len(p2.Changes) != 1 || p2.Changes[0] != (Change{Path: "env.LIMIT", Now: "5"}) {
			w.Errorf("the packet of the second: %+v", p2)
		}
		// Another release gets in meanwhile.
		_, v3 := w.ship(def, "v2", setting("production", "LIMIT", "7"))
		other, err := w.front.Promote(w.Context(), "default", v3.Short(), "production", alice)
		w.must(err)
		d3, _ := w.packet(other)
		w.must(w.decide(other, d3, true, bob))
		w.untilState(other, run.Succeeded)
		w.until(r2, "made anew", func(s Status) bool { return s.Environments[0].Packet != d2 && s.Environments[0].Packet != "" })

		err = w.decide(r2, d2, true, bob)
		var moved *Moved
		if !errors.As(err, &moved) || moved.Packet == d2 || !strings.Contains(err.Error(), "look at it again") {
			w.Fatalf("a decision on the old packet: %v", err)
		}
		paths := map[string]Change{}
		for _, c := range moved.Changes {
			paths[c.Path] = c
		}
		if c := paths["previous"]; c.Was != string(v1) || c.Now != string(v3) {
			w.Errorf("the difference: %+v", moved.Changes)
		}
		if err := w.decide(r2, release.DigestOf([]byte("never was")), true, bob); !errors.As(err, &moved) || len(moved.Changes) != 0 {
			w.Errorf("a decision on a packet that never was: %v", err)
		}
		now, p := w.packet(r2)
		if now != moved.Packet || p.Previous != v3 || p.Release != v2 {
			w.Errorf("what waits now: %s %+v", now, p)
		}
		w.must(w.decide(r2, now, true, bob))
		w.untilState(r2, run.Succeeded)
		w.golden("approved.txt", w.transcript(r2))
	})
}

// A rejection ends the run; what people typed is not in the log itself.
func TestRejected(t *testing.T) {
	stories(t, func(w *world) {
		r, _ := w.ship(w.definition(approved), "v1")
		d, _ := w.packet(r)
		if err := w.front.Decide(w.Context(), "default", r, "nowhere", d, true, "", bob); err == nil || !strings.Contains(err.Error(), "no environment") {
			w.Errorf("%v", err)
		}
		if err := w.front.Decide(w.Context(), "default", r, "production", d, true, strings.Repeat("x", 5000), bob); err == nil || !strings.Contains(err.Error(), "4096") {
			w.Errorf("%v", err)
		}
		w.must(w.decide(r, d, false, bob))
		s := w.untilState(r, run.Failed)
		if !strings.Contains(s.Reason, "rejected by local:bob: because") || run.ExitCode(s.State) != 1 {
			w.Errorf("%s", s.Reason)
		}
		for _, l := range w.leaves(store.LeafFilter{Run: r}) {
			if st, err := w.front.trusted.Verify(l.Envelope); err != nil || strings.Contains(string(st.Predicate), "because") || strings.Contains(string(st.Predicate), "bob") {
				w.Errorf("%s says %s, %v", l.PredicateType, st.Predicate, err)
			}
		}
		if err := w.decide(r, d, true, alice); err == nil || !strings.Contains(err.Error(), "waits for no approval") {
			w.Errorf("deciding afterwards: %v", err)
		}
	})
}

// One person is one voice, however often they speak.
func TestQuorum(t *testing.T) {
	stories(t, func(w *world) {
		def := w.definition(approved)
		def.Environments[0].Approval.Quorum = 2
		r, _ := w.ship(def, "v1")
		d, _ := w.packet(r)
		w.must(w.decide(r, d, true, bob))
		if err := w.decide(r, d, true, bob); err == nil || !strings.Contains(err.Error(), "has decided on this packet already") {
			w.Errorf("twice: %v", err)
		}
		before := w.status(r).UpdatedAt
		w.pause(3 * time.Minute)
		if now := w.status(r).UpdatedAt; !now.Equal(before) {
			w.Errorf("it only waits, and its last change went from %s to %s", before, now)
		}
		if e := w.env(r); e.State != run.Waiting || !strings.Contains(e.WaitingFor, "1 of 2") {
			w.Errorf("%s for %q", e.State, e.WaitingFor)
		}
		w.must(w.decide(r, d, true, alice))
		w.untilState(r, run.Succeeded)
	})
}

// A rollback is rehearsed once more while some of a quorum decided: what they said
// stands, unless the rehearsal failed.
func TestARehearsalVoidsNoApproval(t *testing.T) {
	stories(t, func(w *world) {
		ungated := strings.Replace(drilled, "    gates: [{name: rehearsed, within: 24h}]\n", "", 1)
		open := strings.Replace(ungated, "    approval: {quorum: 1, expires: 2h}\n", "", 1)
		w.first(open)
		v2 := w.released(open, "v2")
		rehearse := func() {
			_, err := w.rehearse("production")
			w.must(err)
			w.pause(3 * time.Minute)
		}
		rehearse()
		def := w.definition(drilled)
		def.Environments[0].Approval.Quorum = 2
		r, _ := w.ship(def, "v3")
		d, _ := w.packet(r)
		w.must(w.decide(r, d, true, bob))
		rehearse()
		if e := w.env(r); e.Packet != d || !strings.Contains(e.WaitingFor, "1 of 2") {
			w.Errorf("the packet was %s and is %s; it waits for %q", d.Short(), e.Packet.Short(), e.WaitingFor)
		}
		w.must(w.decide(r, d, true, alice))
		w.untilState(r, run.Succeeded)

		w.pause(61 * time.Minute)   // the way back is cold then
		def = w.definition(ungated) // the gate would end it
		def.Environments[0].Approval.Quorum = 2
		r, _ = w.ship(def, "v4")
		d, _ = w.packet(r)
		w.must(w.decide(r, d, true, bob))
		w.hosts[0].broken[v2] = "exit status 1: its database is gone"
		rehearse()
		if e := w.env(r); e.Packet == d || e.State != run.Waiting || !strings.Contains(e.WaitingFor, "0 of 2") {
			w.Errorf("after a rehearsal that failed it waits for %q, on packet %s", e.WaitingFor, e.Packet.Short())
		}
	})
}

// A wait is given up by its person, and by a newer commit.
func TestWaitEnds(t *testing.T) {
	stories(t, func(w *world) {
		def := w.definition(approved)
		r1, _ := w.ship(def, "v1")
		w.packet(r1)
		w.must(w.front.Abort(w.Context(), "default", r1, "", "changed my mind", alice))
		if s := w.untilState(r1, run.Cancelled); !strings.Contains(s.Reason, "changed my mind by local:alice") || run.ExitCode(s.State) != 6 {
			w.Errorf("%s", s.Reason)
		}
		r2, _ := w.ship(def, "v2")
		d2, _ := w.packet(r2)
		r3, _ := w.ship(def, "v3")
		if s := w.untilState(r2, run.Superseded); !strings.Contains(s.Reason, "is newer") {
			w.Errorf("%s", s.Reason)
		}
		if err := w.decide(r2, d2, true, bob); err == nil {
			w.Error("a superseded run was approved")
		}
		d3, _ := w.packet(r3)
		w.must(w.decide(r3, d3, true, bob))
		w.untilState(r3, run.Succeeded)
	})
}

// A release waits while another one's rollout is live, which is never replaced.
func TestQueue(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		def := w.definition(production)
		r2, v2 := w.ship(def, "v2")
		w.untilPhase(r2, rollout.Baking, 10)
		r3, _ := w.ship(def, "v3")
		s := w.untilState(r3, run.Waiting)
		if e := s.Environments[0]; !strings.Contains(e.WaitingFor, "rollout of release "+v2.Short()+" (run "+r2+") to end") {
			w.Errorf("waits for %q", e.WaitingFor)
		}
		x, err := w.front.Explain(w.Context(), "default", r3)
		if err != nil || !strings.Contains(x.Why, v2.Short()) {
			w.Errorf("%+v, %v", x, err)
		}
		w.untilState(r2, run.Succeeded)
		if s := w.untilState(r3, run.Succeeded); s.Environments[0].PreviousRelease != v2 {
			w.Errorf("previous: %s", s.Environments[0].PreviousRelease.Short())
		}
		cells, err := w.front.Overview(w.Context(), "default")
		if err != nil || len(cells) != 1 || cells[0].Run != r3 || cells[0].State != run.Succeeded {
			w.Errorf("%+v, %v", cells, err)
		}
	})
}

// What is in the registry is read again before each entry, also after a wait.
func TestAltered(t *testing.T) {
	stories(t, func(w *world) {
		def := w.definition(approved)
		r, id := w.ship(def, "v1")
		d, p := w.packet(r)
		w.shelf.bad[p.Artifacts[0].Digest] = errAltered
		w.must(w.decide(r, d, true, bob))
		s := w.untilState(r, run.Failed)
		if !strings.Contains(s.Reason, "altered") || len(w.hosts[0].services) != 0 {
			w.Errorf("%s; hosts run %v", s.Reason, w.hosts[0].services)
		}
		again, err := w.front.Promote(w.Context(), "default", id.Short(), "production", bob)
		w.must(err)
		w.shelf.bad[p.Artifacts[0].Digest] = errors.New("connection refused")
		if s := w.untilState(again, run.Waiting); !strings.Contains(s.Environments[0].WaitingFor, "connection refused") {
			w.Errorf("%+v", s.Environments[0])
		}
		delete(w.shelf.bad, p.Artifacts[0].Digest)
		d, _ = w.packet(again)
		w.must(w.decide(again, d, true, bob))
		w.untilState(again, run.Succeeded)
	})
}
