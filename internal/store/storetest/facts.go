package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

func releases(t *testing.T, s *store.Store) {
	id, other := digest("a release"), digest("another")
	update(t, s, func(tx *store.Tx) error {
		for _, r := range []store.Release{{Project: "default", ID: id, Service: "web", Manifest: []byte("a release")}, {Project: "default", ID: other, Service: "api", Manifest: []byte("another")}} {
			if err := tx.InsertRelease(&r); err != nil {
				return err
			}
		}
		if err := tx.InsertRelease(&store.Release{Project: "default", ID: id, Service: "web", Manifest: []byte("a release")}); err != nil {
			t.Errorf("the same release again: %v", err)
		}
		want(t, tx.InsertRelease(&store.Release{Project: "default", ID: id, Manifest: []byte("altered")}), store.ErrExists)
		return nil
	})
	view(t, s, func(tx *store.Tx) error {
		r, ok, err := tx.Release("default", id)
		if err != nil || !ok || string(r.Manifest) != "a release" {
			t.Errorf("release: %+v %v %v", r, ok, err)
		}
		if _, ok, err := tx.Release("other", id); ok || err != nil {
			t.Errorf("another project's release was found: %v", err)
		}
		for _, c := range []struct {
			service, prefix string
			n               int
		}{{"", "", 2}, {"web", "", 1}, {"", id.Short(), 1}, {"", string(id), 1}, {"", string(id[:12]), 1}, {"api", id.Short(), 0}, {"", "sha256:%", 0}, {"", "_", 0}, {"", "zz", 0}} {
			if found, err := tx.FindReleases("default", c.service, c.prefix); err != nil || len(found) != c.n {
				t.Errorf("%q of %q: found %d releases, want %d, %v", c.prefix, c.service, len(found), c.n, err)
			}
		}
		return nil
	})

	inputs := digest("inputs")
	update(t, s, func(tx *store.Tx) error {
		b := store.Build{Project: "default", Service: "web", Key: inputs, Artifacts: json.RawMessage(`[1]`)}
		if err := tx.InsertBuild(&b); err != nil {
			return err
		}
		if err := tx.InsertBuild(&b); err != nil {
			t.Errorf("the same build again: %v", err)
		}
		b.Artifacts = json.RawMessage(`[2]`)
		want(t, tx.InsertBuild(&b), store.ErrExists)
		got, ok, err := tx.Build("default", "web", inputs)
		if !ok || string(got.Artifacts) != `[1]` {
			t.Errorf("build: %+v", got)
		}
		if _, ok, _ := tx.Build("default", "api", inputs); ok {
			t.Error("another service's build was found")
		}
		return err
	})

	update(t, s, func(tx *store.Tx) error {
		for i, run := range []string{"1", "2", "2"} {
			if err := tx.InsertPromotion(&store.Promotion{Key: key, Release: id, Run: run, Envelope: []byte("by run " + run)}); err != nil {
				t.Errorf("promotion %d: %v", i, err)
			}
		}
		want(t, tx.InsertPromotion(&store.Promotion{Key: key, Release: id, Run: "2", Envelope: []byte("forged")}), store.ErrExists)
		return tx.InsertPromotion(&store.Promotion{Key: key, Release: other, Run: "3", Envelope: []byte("by run 3")})
	})
	view(t, s, func(tx *store.Tx) error {
		p, ok, err := tx.Promotion(key, id)
		if err != nil || !ok || p.Run != "2" || p.At.IsZero() || string(p.Envelope) != "by run 2" {
			t.Errorf("promotion: %+v %v %v", p, ok, err)
		}
		elsewhere := key
		elsewhere.Environment = "staging"
		if _, ok, err := tx.Promotion(elsewhere, id); ok || err != nil {
			t.Errorf("a promotion into another environment was found: %v", err)
		}
		all, err := tx.Promotions(key)
		if err != nil || len(all) != 3 || all[0].Release != other {
			t.Errorf("promotions: %+v %v", all, err)
		}
		return nil
	})
}

func approvals(t *testing.T, s *store.Store) {
	packet := func(body string) store.Packet {
		return store.Packet{Project: "default", Run: "1", Environment: "prod", Digest: digest(body), Body: []byte(body)}
	}
	a, b := packet("a"), packet("b")
	update(t, s, func(tx *store.Tx) error {
		a.ExpiresAt = tx.Now().Add(time.Hour)
		if err := tx.PutPacket(&a); err != nil {
			return err
		}
		if err := tx.PutPacket(&b); err != nil {
			return err
		}
		got, ok, err := tx.Packet("default", "1", "prod")
		if err != nil || !ok || got.Digest != b.Digest {
			t.Errorf("newest packet: %+v %v", got, err)
		}
		if err := tx.PutPacket(&a); err != nil { // it moved back
			return err
		}
		got, _, err = tx.Packet("default", "1", "prod")
		if err != nil || got.Digest != a.Digest || !got.ExpiresAt.Equal(a.ExpiresAt) {
			t.Errorf("newest packet: %+v %v", got, err)
		}
		forged := b
		forged.Body = []byte("c")
		want(t, tx.PutPacket(&forged), store.ErrExists)
		if got, ok, err := tx.PacketByDigest("default", b.Digest); err != nil || !ok || string(got.Body) != "b" {
			t.Errorf("packet by digest: %+v %v", got, err)
		}
		if _, ok, err := tx.PacketByDigest("other", b.Digest); ok || err != nil {
			t.Errorf("another project's packet: %v", err)
		}
		return nil
	})
	update(t, s, func(tx *store.Tx) error {
		for _, who := range []release.Actor{"local:ada", "local:bob"} {
			if err := tx.AddDecision(&store.Decision{Project: "default", Run: "1", Environment: "prod", Packet: a.Digest, Actor: who, Decision: "approve", Comment: "it's good"}); err != nil {
				return err
			}
		}
		again := store.Decision{Project: "default", Run: "1", Environment: "prod", Packet: a.Digest, Actor: "local:ada", Decision: "reject"}
		want(t, tx.AddDecision(&again), store.ErrExists)
		again.Packet = b.Digest
		return tx.AddDecision(&again)
	})
	view(t, s, func(tx *store.Tx) error {
		of, err := tx.Decisions("default", "1", "prod", a.Digest)
		if err != nil || len(of) != 2 || of[0].Actor != "local:ada" || of[0].Decision != "approve" || of[0].At.IsZero() {
			t.Errorf("decisions: %+v %v", of, err)
		}
		all, err := tx.Decisions("default", "1", "prod", "")
		if err != nil || len(all) != 3 {
			t.Errorf("all decisions: %+v %v", all, err)
		}
		return nil
	})
}

func quarantines(t *testing.T, s *store.Store) {
	id := digest("bad")
	q := store.Quarantine{Project: "default", Service: "web", Release: id, Reason: "20 % errors"}
	update(t, s, func(tx *store.Tx) error {
		want(t, tx.LiftQuarantine("default", "web", id, "local:ada", ""), store.ErrNotFound)
		if err := tx.PutQuarantine(&q); err != nil {
			return err
		}
		again := q
		again.Reason = "another reason"
		if err := tx.PutQuarantine(&again); err != nil {
			return err
		}
		got, ok, err := tx.Quarantined("default", "web", id)
		if !ok || got.Reason != "20 % errors" {
			t.Errorf("quarantined: %+v %v", got, ok)
		}
		if _, ok, _ := tx.Quarantined("default", "api", id); ok {
			t.Error("another service's release is quarantined")
		}
		return err
	})
	update(t, s, func(tx *store.Tx) error {
		if err := tx.LiftQuarantine("default", "web", id, "local:ada", "it was the load test"); err != nil {
			return err
		}
		if _, ok, err := tx.Quarantined("default", "web", id); ok || err != nil {
			t.Errorf("quarantined after it was lifted: %v", err)
		}
		return tx.PutQuarantine(&store.Quarantine{Project: "default", Service: "web", Release: id, Reason: "again"})
	})
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Quarantines("default", "web")
		if err != nil || len(all) != 2 || all[0].Reason != "again" || all[1].LiftedBy != "local:ada" || all[1].LiftedAt == nil {
			t.Errorf("quarantines: %+v %v", all, err)
		}
		return nil
	})
}

func leaf(id string) store.Leaf {
	return store.Leaf{Project: "default", ID: id, Envelope: []byte("signed " + id), PredicateType: "t/" + id[:1], Subject: digest(id[:1]), Run: "1", Environment: "prod"}
}

func leaves(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		for _, id := range []string{"a1", "a2", "b1", "a1"} {
			l := leaf(id)
			if err := tx.AppendLeaf(&l); err != nil {
				return err
			}
		}
		forged := leaf("a1")
		forged.Envelope = []byte("forged")
		want(t, tx.AppendLeaf(&forged), store.ErrExists)
		if err := tx.AppendLeaf(&store.Leaf{Project: "default", ID: "empty"}); err == nil {
			t.Error("a statement without envelope went in")
		}
		other := leaf("a1")
		other.Project = "other"
		return tx.AppendLeaf(&other)
	})
	update(t, s, func(tx *store.Tx) error {
		waiting, err := tx.UnintegratedLeaves("default", 2)
		if err != nil {
			return err
		}
		if len(waiting) != 2 || waiting[0].ID != "a1" || waiting[1].ID != "a2" {
			t.Fatalf("waiting: %+v", waiting)
		}
		for i, l := range waiting {
			if err := tx.SetLeafIndex("default", l.ID, int64(i)); err != nil {
				return err
			}
		}
		if err := tx.SetLeafIndex("default", "a1", 0); err != nil {
			t.Errorf("the same index again: %v", err)
		}
		want(t, tx.SetLeafIndex("default", "a1", 7), store.ErrExists)
		want(t, tx.SetLeafIndex("default", "b1", 1), store.ErrExists)
		want(t, tx.SetLeafIndex("default", "c1", 9), store.ErrNotFound)
		return nil
	})
	view(t, s, func(tx *store.Tx) error {
		if rest, err := tx.UnintegratedLeaves("default", 0); err != nil || len(rest) != 1 || rest[0].ID != "b1" {
			t.Errorf("waiting: %+v %v", rest, err)
		}
		got, err := tx.LeafRange("default", 1, 10)
		if err != nil || len(got) != 1 || got[0].ID != "a2" || *got[0].Index != 1 || !bytes.Equal(got[0].Envelope, []byte("signed a2")) {
			t.Errorf("range: %+v %v", got, err)
		}
		for _, c := range []struct {
			f store.LeafFilter
			n int
		}{{store.LeafFilter{}, 3}, {store.LeafFilter{Subject: digest("a")}, 2}, {store.LeafFilter{PredicateType: "t/b"}, 1}, {store.LeafFilter{Run: "1", Environment: "prod"}, 3}, {store.LeafFilter{Run: "2"}, 0}} {
			if got, err := tx.LeavesOf("default", c.f); err != nil || len(got) != c.n {
				t.Errorf("%+v: %d statements, want %d, %v", c.f, len(got), c.n, err)
			}
		}
		for _, c := range []struct {
			f    store.LeafFilter
			want string
			all  int64
		}{
			{store.LeafFilter{Limit: 2}, "a2 b1", 3},
			{store.LeafFilter{Limit: 2, Before: 2}, "a1", 3},
			{store.LeafFilter{Subject: digest("a"), Limit: 1, Before: 3}, "a2", 2},
			{store.LeafFilter{Before: 1}, "", 3},
		} {
			got, err := tx.LeavesOf("default", c.f)
			ids := make([]string, len(got))
			for i, l := range got {
				ids[i] = l.ID
			}
			n, cerr := tx.CountLeaves("default", c.f)
			if err != nil || cerr != nil || strings.Join(ids, " ") != c.want || n != c.all {
				t.Errorf("%+v: %v of %d; %v, %v", c.f, ids, n, err, cerr)
			}
		}
		if logs, err := tx.LeafProjects(); err != nil || fmt.Sprint(logs) != "[default other]" {
			t.Errorf("logs: %v %v", logs, err)
		}
		return nil
	})
}

func payloads(t *testing.T, s *store.Store) {
	var first string
	update(t, s, func(tx *store.Tx) error {
		for range 2 {
			if err := tx.PutPayload("default", digest("a comment"), []byte("a comment")); err != nil {
				return err
			}
		}
		for _, c := range []struct{ project, salted, want string }{
			{"default", "ada, salted", "ada, salted"}, {"default", "ada, salted anew", "ada, salted"}, {"other", "ada, salted anew", "ada, salted anew"},
		} {
			if got, err := tx.Actor(c.project, "local:ada", digest(c.salted), []byte(c.salted)); err != nil || got != digest(c.want) {
				t.Errorf("%q in %s: %s, %v", c.salted, c.project, got, err)
			}
		}
		l := leaf("a1")
		if err := tx.AppendLeaf(&l); err != nil {
			return err
		}
		var err error
		first, err = tx.LogID("default")
		return err
	})
	update(t, s, func(tx *store.Tx) error {
		again, err := tx.LogID("default")
		if err != nil {
			return err
		}
		other, err := tx.LogID("other")
		if again != first || other == first || len(first) != 16 {
			t.Errorf("the log's id is %q, then %q; another project's is %q", first, again, other)
		}
		return err
	})
	view(t, s, func(tx *store.Tx) error {
		for content, want := range map[string]bool{"a comment": true, "ada, salted": true, "ada, salted anew": false} {
			got, ok, err := tx.Payload("default", digest(content))
			if err != nil || ok != want || ok && string(got) != content {
				t.Errorf("payload %q: %q %v %v", content, got, ok, err)
			}
		}
		if got, err := tx.LogID("default"); err != nil || got != first {
			t.Errorf("read in a view, the log's id is %q, %v", got, err)
		}
		if _, err := tx.LogID("nobody's"); err == nil {
			t.Error("a log that is not there has an id")
		}
		if l, ok, err := tx.Leaf("default", "a1"); err != nil || !ok || string(l.Envelope) != "signed a1" {
			t.Errorf("leaf: %+v %v %v", l, ok, err)
		}
		if _, ok, err := tx.Leaf("other", "a1"); ok || err != nil {
			t.Errorf("another project's leaf: %v", err)
		}
		return nil
	})
}

func tree(t *testing.T, s *store.Store) {
	var nodes []store.Node
	var ids []store.NodeID
	for i := range uint64(1200) { // more than one batch
		id := store.NodeID{Level: uint(i % 3), Index: i}
		nodes, ids = append(nodes, store.Node{NodeID: id, Hash: []byte(fmt.Sprint(i))}), append(ids, id)
	}
	update(t, s, func(tx *store.Tx) error {
		if size, note, state, err := tx.LogState("default"); size != 0 || note != nil || state != nil || err != nil {
			t.Errorf("a log that is not there has size %d, %v", size, err)
		}
		if err := tx.PutNodes("default", nodes); err != nil {
			return err
		}
		if err := tx.PutNodes("default", nodes[:5]); err != nil {
			t.Errorf("the same nodes again: %v", err)
		}
		return tx.PutCheckpoint("default", 600, []byte("note 600"), []byte("range"))
	})
	want(t, s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.PutNodes("default", []store.Node{{NodeID: ids[0], Hash: []byte("other")}})
	}), store.ErrExists)
	want(t, s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.PutCheckpoint("default", 599, []byte("note 599"), nil)
	}), store.ErrStale)
	update(t, s, func(tx *store.Tx) error { return tx.PutCheckpoint("default", 601, []byte("note 601"), []byte("range")) })
	view(t, s, func(tx *store.Tx) error {
		got, err := tx.Nodes("default", ids)
		if err != nil {
			return err
		}
		for i := range got {
			if got[i].NodeID != ids[i] || !bytes.Equal(got[i].Hash, nodes[i].Hash) {
				t.Fatalf("node %d: %+v", i, got[i])
			}
		}
		_, err = tx.Nodes("default", []store.NodeID{ids[0], {Level: 60, Index: 1}})
		want(t, err, store.ErrNotFound)
		size, note, state, err := tx.LogState("default")
		if size != 601 || string(note) != "note 601" || string(state) != "range" {
			t.Errorf("log state: %d %s %s", size, note, state)
		}
		if all, err := tx.Checkpoints("default"); err != nil || len(all) != 2 || all[0].Size != 600 || string(all[0].Note) != "note 600" {
			t.Errorf("checkpoints: %+v %v", all, err)
		}
		return err
	})
}

func desired(t *testing.T, s *store.Store) {
	for _, c := range []struct {
		generation int64
		applied    bool
	}{{5, true}, {5, false}, {4, false}, {6, true}} {
		update(t, s, func(tx *store.Tx) error {
			applied, err := tx.PutDesired(key, c.generation, json.RawMessage(fmt.Sprint(c.generation)))
			if applied != c.applied {
				t.Errorf("generation %d applied: %v", c.generation, applied)
			}
			return err
		})
	}
	view(t, s, func(tx *store.Tx) error {
		d, ok, err := tx.Desired(key)
		if err != nil || !ok || d.Generation != 6 || string(d.Document) != "6" || d.Key != key {
			t.Errorf("desired: %+v %v", d, err)
		}
		for _, c := range []struct {
			since time.Time
			want  int
		}{{time.Time{}, 1}, {d.UpdatedAt, 1}, {tx.Now(), 1}, {tx.Now().Add(time.Hour), 1}} {
			if all, err := tx.DesiredSince(c.since); err != nil || len(all) != c.want {
				t.Errorf("desired since %s: %+v %v", c.since, all, err)
			}
		}
		return nil
	})
}

func observed(t *testing.T, s *store.Store) {
	for _, c := range []struct {
		boot     string
		sequence uint64
		applied  bool
	}{{"a", 2, true}, {"a", 2, false}, {"a", 1, false}, {"a", 3, true}, {"b", 1, true}, {"a", 4, false}, {"c", 1, true}, {"b", 2, false}, {"a", 5, false}, {"c", 2, true}} {
		update(t, s, func(tx *store.Tx) error {
			applied, err := tx.PutObserved(&store.Observed{Host: "local", Boot: c.boot, Sequence: c.sequence, Report: json.RawMessage(`{}`)})
			if applied != c.applied {
				t.Errorf("report %s/%d stored: %v", c.boot, c.sequence, applied)
			}
			return err
		})
	}
	view(t, s, func(tx *store.Tx) error {
		o, ok, err := tx.Observed("local")
		if err != nil || !ok || o.Boot != "c" || o.Sequence != 2 || o.At.IsZero() {
			t.Errorf("observed: %+v %v", o, err)
		}
		if all, err := tx.ObservedHosts(); err != nil || len(all) != 1 {
			t.Errorf("observed: %+v %v", all, err)
		}
		for host, want := range map[string]int{"local": 1, "other": 0} {
			got, err := tx.ObservedVersions(host)
			if err != nil || len(got) != want || want > 0 && (got[0].Boot != "c" || got[0].Sequence != 2 || !got[0].At.Equal(o.At) || got[0].Report != nil) {
				t.Errorf("versions of %s: %+v %v", host, got, err)
			}
		}
		if all, err := tx.ObservedVersions(); err != nil || len(all) != 1 {
			t.Errorf("versions of all: %+v %v", all, err)
		}
		return nil
	})
}

func answers(t *testing.T, s *store.Store) {
	a := store.Answer{Project: "default", Key: "k", Request: digest("request"), Status: 201, Body: []byte(`{"id":"1"}`)}
	update(t, s, func(tx *store.Tx) error { return tx.PutAnswer(&a) })
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutAnswer(&a) }), store.ErrExists)
	view(t, s, func(tx *store.Tx) error {
		got, ok, err := tx.Answer("default", "k")
		if err != nil || !ok || got.Status != 201 || string(got.Body) != `{"id":"1"}` || got.Request != a.Request {
			t.Errorf("answer: %+v %v", got, err)
		}
		if _, ok, err := tx.Answer("other", "k"); ok || err != nil {
			t.Errorf("another project's answer: %v", err)
		}
		return nil
	})
}
