package host

import (
	"fmt"
	"slices"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
)

// Strange says what a host that has applied d runs beside it: a release that d does
// not name. What is stopping is on its way out, and so is what serves only until
// others can ([wire.RevisionObserved.Wanted] is false of it): the host does as d says.
func Strange(s wire.Service, hostName string, d wire.Desired) string {
	if s.Generation != d.Generation {
		return ""
	}
	for _, v := range s.Revisions {
		switch {
		case v.Phase == wire.Stopping, slices.ContainsFunc(d.Revisions, func(r wire.Revision) bool { return r.Release == v.Release }):
		case !v.Wanted && (v.Weight > 0 || v.Ready == 0):
		case v.Weight > 0:
			return fmt.Sprintf("host %s gives %s to release %s, which was not set to run there", hostName, percent(v.Weight), v.Release.Short())
		default:
			return fmt.Sprintf("host %s runs release %s, which was not set to run there", hostName, v.Release.Short())
		}
	}
	return ""
}

// Differs says what is otherwise than d wants it on a host that has applied d; empty
// where all is, or is becoming, as it shall be. Fewer instances than wanted are ready
// after a crash or while they start, which is for health to tell: the host knows that
// some are missing. One that takes fewer for all of them was told so by somebody else.
func Differs(s wire.Service, hostName string, d wire.Desired) string {
	if s.Generation != d.Generation {
		return ""
	}
	if strange := Strange(s, hostName, d); strange != "" {
		return strange
	}
	settled := true // nothing else carries users until what shall can
	for _, v := range s.Revisions {
		settled = settled && (v.Weight == 0 || slices.ContainsFunc(d.Revisions, func(r wire.Revision) bool { return r.Release == v.Release }))
	}
	for _, r := range d.Revisions {
		if x, own := r.Shares[hostName]; own {
			r.Instances, r.Weight = x.Instances, x.Weight
		}
		is := revision(s, r.Release)
		name := "release " + r.Release.Short()
		switch {
		case is == nil:
			return fmt.Sprintf("host %s does not know of %s, which was set to run there", hostName, name)
		case is.Phase == wire.Stopping: // asked for again before it was gone
			settled = false
		case is.Ready > r.Instances && is.Weight <= r.Weight, is.Ready < r.Instances && is.Phase == wire.Ready:
			return fmt.Sprintf("host %s runs %s of %s where %d were set", hostName, pipeline.Instances(is.Ready), name, r.Instances)
		}
		settled = settled && (is.Ready > 0 || r.Weight == 0)
	}
	for _, r := range d.Revisions {
		if x, own := r.Shares[hostName]; own {
			r.Weight = x.Weight
		}
		if is := revision(s, r.Release); settled && d.Listen != "" && is.Weight != r.Weight {
			return fmt.Sprintf("host %s gives %s to release %s where %s was set", hostName, percent(is.Weight), r.Release.Short(), percent(r.Weight))
		}
	}
	return ""
}

// forgotten says what is otherwise than d wants it on a host that has applied a later
// generation than d's, which is not on record.
func forgotten(s wire.Service, hostName string, d wire.Desired) string {
	applied := s.Generation
	s.Generation = d.Generation
	why := Differs(s, hostName, d)
	if why != "" {
		why += fmt.Sprintf(" (it has applied generation %d, where the last on record is %d)", applied, d.Generation)
	}
	return why
}

// Stray is what hosts run otherwise than they were told.
type Stray struct {
	Hosts  []string // those that differ
	Why    string   // in what
	Unread []string // those that have not applied it yet: nobody knows of them
	// Ahead says that a host has applied a later generation than there is on record:
	// the record is of a backup, or somebody else tells it what to run too. Forgotten says
	// that one of those that differ has.
	Ahead, Forgotten bool
}

// Astray looks at what the hosts of d that have applied it run. A host's last word
// counts, also when it is silent now.
func Astray(reports []Report, d wire.Desired) (x Stray) {
	for _, h := range d.Hosts {
		s := wire.Service{}
		for _, r := range reports {
			if i := slices.IndexFunc(r.Services, func(s wire.Service) bool { return s.Key == d.Key }); r.Host == h && i >= 0 {
				s = r.Services[i]
			}
		}
		if s.Generation < d.Generation {
			x.Unread = append(x.Unread, h)
			continue
		}
		var why string
		if s.Generation == d.Generation {
			why = Differs(s, h, d)
		} else {
			why = forgotten(s, h, d)
			x.Ahead, x.Forgotten = true, x.Forgotten || why != ""
		}
		if why != "" {
			x.Hosts = append(x.Hosts, h)
			if x.Why != "" {
				x.Why += "; "
			}
			x.Why += why
		}
	}
	return x
}
