package host

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
)

// Place settles where a host says that its services answer, before anybody is sent
// there: checks ask from the server's machine, and must not be led to what is not
// the host's. from is where the report came from; mine says whether a name or
// address is one that the host's credential covers, nil that it covers all. An
// address that can't be right is taken out, and Refused says why; one that names no
// interface is where the report came from.
func Place(o *wire.Observed, from netip.Addr, mine func(host string) bool) {
	for i := range o.Services {
		s := &o.Services[i]
		s.Refused = ""
		for _, at := range []*string{&s.Address, &s.Preview} {
			if *at == "" {
				continue
			}
			placed, err := place(*at, o.Host, from, mine)
			if err != nil {
				refuse(s, err)
			}
			*at = placed
		}
	}
}

func place(at, hostName string, from netip.Addr, mine func(string) bool) (string, error) {
	name, port, err := split(at)
	if err != nil {
		return "", err
	}
	ip, notIP := netip.ParseAddr(name)
	ip = ip.Unmap()
	switch {
	case notIP != nil:
	case ip.IsUnspecified():
		if !from.IsValid() || from.IsUnspecified() {
			return "", fmt.Errorf("it says that it answers at %s, and from where it says so is not known: name a port alone in target.listen, and start its agent with --address", at)
		}
		if ip.Is4() && !from.Is4() {
			return "", fmt.Errorf("it says that it answers at %s, which no IPv6 address is of, and it calls from %s: start its agent with --address", at, from)
		}
		return net.JoinHostPort(from.String(), port), nil
	case ip.IsMulticast():
		return "", fmt.Errorf("it says that it answers at %s, which is no single machine's", at)
	}
	if mine == nil || mine(name) {
		return at, nil
	}
	if notIP == nil && ip.IsLoopback() {
		return "", fmt.Errorf("it says that it answers at %s, where only its own machine can ask it: start its agent with --address", at)
	}
	if notIP != nil {
		return "", fmt.Errorf("it says that it answers at %.200s, a name that its certificate does not have: give it one that has, or start its agent with --address and an IP", at)
	}
	calls := "unknown behind a proxy"
	if from.IsValid() {
		calls = from.String()
	}
	return "", fmt.Errorf("it says that it answers at %.200s, which is neither where it reports from (%s) nor an address of its credential: give it a certificate with that address, or the token of sluice agent-token %s --address %.100s", at, calls, hostName, name)
}

// split takes an address that somebody can be sent to apart.
func split(at string) (name, port string, err error) {
	name, port, err = net.SplitHostPort(at)
	n, notPort := strconv.ParseUint(port, 10, 16)
	if err != nil || name == "" || notPort != nil || n == 0 || len(at) > 300 {
		return "", "", fmt.Errorf("it says that it answers at %.100q, which is not host:port", at)
	}
	return name, port, nil
}

// PlacePorts takes out addresses whose port is none that d wants of its hosts. What
// was reported before d was applied, or while its own address could not be had,
// is of an earlier one.
func PlacePorts(s *wire.Service, d wire.Desired) {
	if s.Generation < d.Generation || d.Removed || d.Listen == "" {
		return
	}
	for _, x := range []struct {
		at    *string
		wants []string
		sure  bool
	}{{&s.Address, append([]string{d.Listen}, d.Also...), s.Listening}, {&s.Preview, []string{d.Preview}, d.Preview != ""}} {
		_, port, err := net.SplitHostPort(*x.at)
		if err != nil || !x.sure {
			continue
		}
		if !slices.ContainsFunc(x.wants, func(want string) bool {
			_, p, err := net.SplitHostPort(want)
			return err != nil || p == port || p == "0"
		}) {
			refuse(s, fmt.Errorf("it says that it answers at %s, where %s is wanted", *x.at, x.wants[0]))
			*x.at = ""
		}
	}
}

func refuse(s *wire.Service, err error) { s.Refused = cmp.Or(s.Refused, err.Error()) }

// Misplaced says why the wanted hosts can't be asked where they say that key
// answers; nil when each says something of its own, or nothing yet.
func Misplaced(reports []Report, key release.Key, t pipeline.Target) error {
	var errs []error
	said := map[string]string{} // hosts by address
	for _, h := range t.Hosts {
		for _, r := range reports {
			for _, s := range r.Services {
				if r.Host != h || s.Key != key {
					continue
				}
				if s.Refused != "" {
					errs = append(errs, fmt.Errorf("host %s: %s", h, s.Refused))
				}
				for _, at := range []string{s.Address, s.Preview} {
					if at == "" {
						continue
					}
					name, _, err := split(at)
					if ip, e := netip.ParseAddr(name); err == nil && e == nil && (ip.Unmap().IsUnspecified() || ip.IsMulticast()) {
						err = fmt.Errorf("it says that it answers at %s, which is no single machine's", at)
					}
					if err != nil {
						errs = append(errs, fmt.Errorf("host %s: %w", h, err))
					}
					if other, twice := said[at]; twice && other != h {
						errs = append(errs, fmt.Errorf("hosts %s and %s both say that they answer at %s: start their agents with --address, each with its own", other, h, at))
					}
					said[at] = h
				}
			}
		}
	}
	return errors.Join(errs...)
}
