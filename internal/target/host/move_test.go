package host

import (
	"slices"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
)

func TestUnderway(t *testing.T) {
	d := wire.Desired{Listen: ":8080"}
	Underway(&d, pipeline.Target{Listen: ":8080"})
	if d.Listen != ":8080" || d.Also != nil || d.Requires != nil {
		t.Errorf("nothing moves, and %+v", d)
	}
	Underway(&d, pipeline.Target{Listen: ":80"})
	if d.Listen != ":80" || !slices.Equal(d.Also, []string{":8080"}) || !slices.Equal(d.Requires, []string{wire.FeatureAlso}) {
		t.Errorf("%+v", d)
	}
}

func TestHostsThatLeave(t *testing.T) {
	leaving := Leaving([]string{"a", "c"}, []string{"a", "b"})
	if !slices.Equal(leaving, []string{"b"}) {
		t.Fatalf("%v leave", leaving)
	}
	named := []string{"a", "c"}
	d := wire.Desired{Hosts: named[:2:2], Requires: []string{wire.FeatureShares}}
	old, cand := wire.Revision{Instances: 2, Weight: 9000}, wire.Revision{Instances: 1, Weight: 1000}
	Stay(&d, leaving, &old, nil, &cand)
	if !slices.Equal(d.Hosts, []string{"a", "c", "b"}) || len(d.Requires) != 1 {
		t.Errorf("%+v", d)
	}
	if old.Shares["b"] != (wire.Share{Instances: 2, Weight: wire.FullWeight}) || cand.Shares["b"] != (wire.Share{}) || len(cand.Shares) != 1 {
		t.Errorf("old %v, candidate %v", old.Shares, cand.Shares)
	}
	gone := wire.Desired{Hosts: named}
	Stay(&gone, leaving, nil, &cand)
	if len(gone.Hosts) != 2 {
		t.Errorf("hosts without a release are named: %v", gone.Hosts)
	}
}

func TestWhoMustBeTold(t *testing.T) {
	key := release.Key{Project: "default", Service: "shop", Environment: "production"}
	d := wire.Desired{Key: key, Generation: 7}
	said := func(s wire.Service) []Report { return []Report{{Observed: wire.Observed{Services: []wire.Service{s}}}} }
	for name, c := range map[string]struct {
		reports []Report
		want    bool
	}{
		"never heard of":  {nil, false},
		"runs it":         {said(wire.Service{Key: key, Generation: 6, Revisions: []wire.RevisionObserved{{}}}), true},
		"listens for it":  {said(wire.Service{Key: key, Generation: 6, Address: ":80"}), true},
		"was told":        {said(wire.Service{Key: key, Generation: 7, Revisions: []wire.RevisionObserved{{}}}), false},
		"let go of it":    {said(wire.Service{Key: key, Generation: 6}), false},
		"another service": {said(wire.Service{Key: release.Key{Service: "x"}, Address: ":80"}), false},
	} {
		if got := Runs(c.reports, d); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
