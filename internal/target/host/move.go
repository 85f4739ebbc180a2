package host

import (
	"slices"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
)

// Underway keeps a service where it was until its new release was judged good: it
// goes on at the address before, and answers at the new one too, which shows that
// that is free.
func Underway(d *wire.Desired, before pipeline.Target) {
	if before.Listen == "" || d.Listen == "" || before.Listen == d.Listen {
		return
	}
	d.Listen, d.Also = before.Listen, append(d.Also, d.Listen)
	require(d, wire.FeatureAlso)
}

// Moves reports whether a service is to leave an address or a host.
func Moves(before, now pipeline.Target) bool {
	return before.Listen != "" && now.Listen != "" && before.Listen != now.Listen || len(Leaving(now.Hosts, before.Hosts)) > 0
}

// Leaving are the hosts of before that now does not name.
func Leaving(now, before []string) []string {
	var out []string
	for _, h := range before {
		if !slices.Contains(now, h) {
			out = append(out, h)
		}
	}
	return out
}

// Stay has hosts that the new release is not for go on with the old one alone, as
// they are. Without an old one they are not named: an agent that runs what it is
// not named for lets go of it.
func Stay(d *wire.Desired, hosts []string, old *wire.Revision, others ...*wire.Revision) {
	if len(hosts) == 0 || old == nil {
		return
	}
	d.Hosts = append(slices.Clone(d.Hosts), hosts...)
	require(d, wire.FeatureShares)
	for _, r := range append([]*wire.Revision{old}, others...) {
		if r == nil {
			continue
		}
		if r.Shares == nil {
			r.Shares = map[string]wire.Share{}
		}
		for _, h := range hosts {
			r.Shares[h] = wire.Share{}
			if r == old {
				r.Shares[h] = wire.Share{Instances: old.Instances, Weight: wire.FullWeight}
			}
		}
	}
}

func require(d *wire.Desired, feature string) {
	if !slices.Contains(d.Requires, feature) {
		d.Requires = append(slices.Clone(d.Requires), feature)
	}
}

// LetGo is what a host is told that d does not name: nothing of what runs elsewhere.
func LetGo(d wire.Desired) wire.Desired {
	return wire.Desired{Protocol: d.Protocol, Generation: d.Generation, Key: d.Key, Hosts: d.Hosts, Revisions: []wire.Revision{}, Removed: true}
}

// Runs reports whether a host that d does not name was last heard to run it, so
// that it must be told.
func Runs(reports []Report, d wire.Desired) bool {
	for _, r := range reports {
		for _, s := range r.Services {
			if s.Key == d.Key && s.Generation < d.Generation && (s.Address != "" || s.Refused != "" || len(s.Revisions) > 0) {
				return true
			}
		}
	}
	return false
}
