package host_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
)

var otherID = release.DigestOf([]byte("other"))

// asTold is a host that does what told says: the old release has 90 %, the new 10 %.
func asTold() (told wire.Desired, s wire.Service) {
	told = wire.Desired{Key: rolled, Generation: 7, Listen: ":80", Hosts: []string{"a", "b"}, Revisions: []wire.Revision{
		{Release: oldID, Instances: 2, Weight: 9000}, {Release: newID, Instances: 2, Weight: 1000, Candidate: true},
	}}
	s = wire.Service{Key: rolled, Generation: 7, Listening: true}
	for _, r := range told.Revisions {
		s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: r.Release, Phase: wire.Ready, Weight: r.Weight, Ready: r.Instances, Instances: make([]wire.Instance, r.Instances), Wanted: true})
	}
	return told, s
}

// Whatever else a host runs than it was told to is told, by host and in words.
func TestDiffers(t *testing.T) {
	add := func(s *wire.Service, v wire.RevisionObserved) {
		v.Release = otherID
		s.Revisions = append(s.Revisions, v)
	}
	for want, spoil := range map[string]func(*wire.Service){
		"runs release " + otherID.Short() + ", which was not set to run there": func(s *wire.Service) {
			add(s, wire.RevisionObserved{Phase: wire.Ready, Ready: 1, Wanted: true})
		},
		"runs release " + otherID.Short() + ", which": func(s *wire.Service) { // nobody routes to it, and it doesn't stop
			add(s, wire.RevisionObserved{Phase: wire.Ready, Ready: 1})
		},
		"gives 90 % to release " + otherID.Short() + ", which was not set to run there": func(s *wire.Service) {
			s.Revisions[0].Release, s.Revisions[0].Wanted = otherID, true
		},
		"does not know of release " + oldID.Short(): func(s *wire.Service) { s.Revisions = s.Revisions[1:] },
		"runs 3 instances of release " + newID.Short() + " where 2 were set": func(s *wire.Service) {
			s.Revisions[1].Ready = 3
		},
		"runs 1 instance of release " + oldID.Short() + " where 2 were set": func(s *wire.Service) {
			s.Revisions[0].Ready = 1 // and takes it for all
		},
		"gives 0 % to release " + oldID.Short() + " where 90 % was set": func(s *wire.Service) { s.Revisions[0].Weight = 0 },
	} {
		told, s := asTold()
		spoil(&s)
		got := host.Differs(s, "a", told)
		if !strings.HasPrefix(got, "host a ") || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		s.Generation = 6
		if got := host.Differs(s, "a", told); got != "" {
			t.Errorf("what was not applied yet is told of: %q", got)
		}
	}
}

// What passes by itself is no drift: a rollout must not be held for it.
func TestWhatIsOnItsWayIsNoDrift(t *testing.T) {
	for what, change := range map[string]func(*wire.Service){
		"as told":          func(*wire.Service) {},
		"one that crashed": func(s *wire.Service) { s.Revisions[0].Ready, s.Revisions[0].Phase = 1, wire.Starting },
		"one that crashes for good": func(s *wire.Service) {
			s.Revisions[0].Ready, s.Revisions[0].Phase = 0, wire.Failed
		},
		"a group that grows": func(s *wire.Service) {
			s.Revisions[1].Ready, s.Revisions[1].Phase = 1, wire.Starting
		},
		"one that drains": func(s *wire.Service) {
			s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: otherID, Phase: wire.Stopping, Ready: 1, Instances: make([]wire.Instance, 1)})
		},
		"instances that drain": func(s *wire.Service) { s.Revisions[0].Instances = make([]wire.Instance, 4) },
		"one that serves until others can": func(s *wire.Service) {
			s.Revisions[0].Weight, s.Revisions[0].Ready, s.Revisions[0].Phase = 0, 0, wire.Starting
			s.Revisions[1].Weight = 0
			s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: otherID, Phase: wire.Ready, Ready: 2, Weight: wire.FullWeight})
		},
		"one that others have just become ready to follow": func(s *wire.Service) {
			s.Revisions[0].Weight, s.Revisions[1].Weight = 0, 0
			s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: otherID, Phase: wire.Ready, Ready: 2, Weight: wire.FullWeight})
		},
		"one that has more until others can serve": func(s *wire.Service) {
			s.Revisions[0].Weight, s.Revisions[0].Ready = 10000, 4
			s.Revisions[1].Weight, s.Revisions[1].Ready, s.Revisions[1].Phase = 0, 0, wire.Pulling
		},
		"one that is asked for again while it stops": func(s *wire.Service) {
			s.Revisions[0] = wire.RevisionObserved{Release: oldID, Phase: wire.Stopping, Wanted: true}
		},
		"what is only checked": func(s *wire.Service) {
			s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: otherID, Phase: wire.Pulling})
		},
	} {
		told, s := asTold()
		change(&s)
		if got := host.Differs(s, "a", told); got != "" {
			t.Errorf("%s: %q", what, got)
		}
	}
}

// A host with a share of its own is held to that. One that leaves keeps the release
// before alone.
func TestDiffersFromItsShare(t *testing.T) {
	told, s := asTold()
	told.Hosts = told.Hosts[:1]
	host.Stay(&told, []string{"leaves"}, &told.Revisions[0], &told.Revisions[1])
	if got := host.Differs(s, "leaves", told); !strings.Contains(got, "gives 90 % to release "+oldID.Short()+" where 100 % was set") {
		t.Errorf("%q", got)
	}
	s.Revisions[0].Weight, s.Revisions[1].Weight = 10000, 0
	if got := host.Differs(s, "leaves", told); !strings.Contains(got, "runs 2 instances of release "+newID.Short()+" where 0 were set") {
		t.Errorf("%q", got)
	}
	s.Revisions[1].Ready, s.Revisions[1].Instances = 0, nil
	if got := host.Differs(s, "leaves", told); got != "" {
		t.Errorf("as it shall stay: %q", got)
	}
}

// A rollout sees the first host that differs, whether its plan counts instances or not.
func TestObserveHoldsHostsToWhatTheyWereTold(t *testing.T) {
	told, s := asTold()
	_, strange := asTold()
	strange.Revisions = append(strange.Revisions, wire.RevisionObserved{Release: otherID, Phase: wire.Ready, Ready: 1, Wanted: true})
	reports := []host.Report{{Arrived: time.Unix(100, 0), Observed: wire.Observed{Host: "a", Services: []wire.Service{s}}}, {Arrived: time.Unix(100, 0), Observed: wire.Observed{Host: "b", Services: []wire.Service{strange}}}}
	see := func(w *host.Wanted, reports []host.Report) string {
		return w.Observe(reports, rolled, told.Hosts, newID, oldID, time.Unix(101, 0)).Off
	}
	if off := see((*host.Wanted)(nil).Tell(told), reports); !strings.HasPrefix(off, "host b runs release "+otherID.Short()) {
		t.Errorf("weights: %q", off)
	}
	if off := see(nil, reports); off != "" {
		t.Errorf("nobody looks: %q", off)
	}
	plan, state, hosts := replacing(t, false, func(s rollout.PlanStep) bool { return s.Run == 3 && s.Moved == 3 })
	told.Hosts = hosts
	two := []host.Report{says("a", 0, 2, 10000), says("b", 1, 1, 5000)}
	counted := host.WantedOf(plan, state, hosts, 2).Tell(told)
	if off := see(counted, two); off != "" {
		t.Errorf("as wanted: %q", off)
	}
	two[1].Services[0].Revisions = append(two[1].Services[0].Revisions, strange.Revisions[2])
	if off := see(counted, two); !strings.HasPrefix(off, "host b runs release "+otherID.Short()) {
		t.Errorf("counts: %q", off)
	}
}

// All hosts that differ are named, also one that is silent now; one that has not
// applied the document yet is not read.
func TestAstray(t *testing.T) {
	told, s := asTold()
	told.Hosts = []string{"a", "b", "c", "d"}
	says := func(h string, change func(*wire.Service)) host.Report {
		x := s
		x.Revisions = append([]wire.RevisionObserved(nil), s.Revisions...)
		change(&x)
		return host.Report{Arrived: time.Unix(1, 0), Observed: wire.Observed{Host: h, Services: []wire.Service{x}}}
	}
	x := host.Astray([]host.Report{
		says("a", func(*wire.Service) {}),
		says("b", func(x *wire.Service) { x.Revisions[0].Ready = 3 }),
		says("c", func(x *wire.Service) { x.Generation, x.Revisions = 6, nil }),
		says("e", func(x *wire.Service) { x.Revisions = nil }),
	}, told)
	const wrong = " where 2 were set"
	if strings.Join(x.Hosts, " ") != "b" || x.Why != "host b runs 3 instances of release "+oldID.Short()+wrong || strings.Join(x.Unread, " ") != "c d" || x.Ahead {
		t.Errorf("%+v", x)
	}
	// Later generations than the one on record: the same one, and another.
	told.Hosts = []string{"a", "b"}
	same := says("a", func(x *wire.Service) { x.Generation = 9 })
	if x := host.Astray([]host.Report{same, says("b", func(*wire.Service) {})}, told); len(x.Hosts) != 0 || !x.Ahead || x.Forgotten {
		t.Errorf("as it was set, by a later generation: %+v", x)
	}
	other := says("b", func(x *wire.Service) { x.Generation, x.Revisions[0].Ready = 9, 3 })
	if x := host.Astray([]host.Report{same, other}, told); !x.Forgotten || strings.Join(x.Hosts, " ") != "b" || !strings.HasSuffix(x.Why, wrong+" (it has applied generation 9, where the last on record is 7)") {
		t.Errorf("otherwise, by a later generation: %+v", x)
	}
}

// A host may have applied a later generation than a restored rollout gave: what differs holds
// it, whether its plan counts instances or not, and is blamed on nobody's release.
func TestObserveOfAHostThatIsAhead(t *testing.T) {
	told, s := asTold()
	plan, state, hosts := replacing(t, false, func(s rollout.PlanStep) bool { return s.Run == 3 && s.Moved == 3 })
	for name, w := range map[string]*host.Wanted{"weights": (*host.Wanted)(nil).Tell(told), "counted": host.WantedOf(plan, state, hosts, 2).Tell(told)} {
		see := func(s wire.Service) rollout.Observation {
			return w.Observe([]host.Report{{Arrived: time.Unix(100, 0), Observed: wire.Observed{Host: "a", Services: []wire.Service{s}}}}, rolled, []string{"a"}, newID, oldID, time.Unix(101, 0))
		}
		later := s
		later.Generation = 9
		if o := see(later); strings.Contains(o.Off, "it has applied generation") {
			t.Errorf("%s: as it was set: %+v", name, o)
		}
		later.Revisions, later.Listening, later.Reason = nil, false, "generation 7 was refused: 9 was applied before"
		if o := see(later); o.Failed != "" || !strings.HasSuffix(o.Off, "(it has applied generation 9, where the last on record is 7)") {
			t.Errorf("%s: it let go of it: %+v", name, o)
		}
	}
}
