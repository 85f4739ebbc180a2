package host

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
)

var from = netip.MustParseAddr("10.0.0.5")

// A host's credential covers where it calls from, and what it names: a host that
// somebody took over leads no check to another's address, nor to the server's own.
func TestPlace(t *testing.T) {
	covered := func(host string) bool {
		return slices.Contains([]string{"10.0.0.5", "10.1.0.5", "web-1.example"}, host)
	}
	for _, c := range []struct {
		at, want, says string
		all            bool // the access token covers all
	}{
		{at: "10.0.0.5:9001", want: "10.0.0.5:9001"},
		{at: "10.1.0.5:9001", want: "10.1.0.5:9001"},
		{at: "web-1.example:9001", want: "web-1.example:9001"},
		{at: "0.0.0.0:9001", want: "10.0.0.5:9001"},
		{at: "[::]:9001", want: "10.0.0.5:9001"},
		{at: "10.0.0.6:9001", says: "neither where it reports from (10.0.0.5)"},
		{at: "web-2.example:9001", says: "a name that its certificate does not have"},
		{at: "10.0.0.7:9001", says: "sluice agent-token a --address 10.0.0.7"},
		{at: "169.254.169.254:80", says: "neither where it reports from"},
		{at: "127.0.0.1:8711", says: "only its own machine can ask it"},
		{at: "[::1]:8711", says: "only its own machine can ask it"},
		{at: "224.0.0.1:9001", says: "no single machine's"},
		{at: "10.0.0.5", says: "not host:port"},
		{at: "10.0.0.5:0", says: "not host:port"},
		{at: "10.0.0.5:99999", says: "not host:port"},
		{at: "10.0.0.5:http", says: "not host:port"},
		{at: ":9001", says: "not host:port"},
		{at: strings.Repeat("a", 400) + ":9001", says: "not host:port"},
		{all: true, at: "10.0.0.6:9001", want: "10.0.0.6:9001"},
		{all: true, at: "127.0.0.1:9001", want: "127.0.0.1:9001"},
		{all: true, at: "[::ffff:0.0.0.0]:9001", want: "10.0.0.5:9001"},
		{all: true, at: "nowhere", says: "not host:port"},
	} {
		mine := covered
		if c.all {
			mine = nil
		}
		for _, preview := range []bool{false, true} {
			o := wire.Observed{Host: "a", Services: []wire.Service{{Key: key, Refused: "an agent's own word"}}}
			s := &o.Services[0]
			at := &s.Address
			if preview {
				at = &s.Preview
			}
			*at = c.at
			Place(&o, from, mine)
			if *at != c.want || (s.Refused == "") != (c.says == "") || !strings.Contains(s.Refused, c.says) {
				t.Errorf("%.60s: %q, %q", c.at, *at, s.Refused)
			}
		}
	}
	// Who listens on IPv4 alone answers nobody at the IPv6 address that it calls from.
	six := netip.MustParseAddr("2001:db8::5")
	for at, want := range map[string]string{"0.0.0.0:9001": "", "[::]:9001": "[2001:db8::5]:9001"} {
		o := wire.Observed{Host: "a", Services: []wire.Service{{Key: key, Address: at}}}
		if Place(&o, six, nil); o.Services[0].Address != want || (o.Services[0].Refused == "") != (want != "") {
			t.Errorf("%s: %+v", at, o.Services[0])
		}
	}
	// From where it is not known, no interface is no address.
	o := wire.Observed{Host: "a", Services: []wire.Service{{Key: key, Address: "0.0.0.0:9001"}}}
	if Place(&o, netip.Addr{}, nil); o.Services[0].Address != "" || !strings.Contains(o.Services[0].Refused, "--address") {
		t.Errorf("%+v", o.Services[0])
	}
}

// A host answers at the ports that its desired state names, once it has applied it.
func TestPlacePorts(t *testing.T) {
	d := wire.Desired{Generation: 7, Listen: ":9001", Also: []string{":9002"}, Preview: ":9003"}
	for name, c := range map[string]struct {
		s    wire.Service
		d    func(*wire.Desired)
		says string
	}{
		"where it is wanted":        {s: wire.Service{Generation: 7, Listening: true, Address: "a:9001", Preview: "a:9003"}},
		"where it moves to":         {s: wire.Service{Generation: 7, Listening: true, Address: "a:9002"}},
		"elsewhere":                 {s: wire.Service{Generation: 7, Listening: true, Address: "a:22"}, says: "at a:22, where :9001 is wanted"},
		"its preview elsewhere":     {s: wire.Service{Generation: 7, Listening: true, Address: "a:9001", Preview: "a:22"}, says: "at a:22, where :9003 is wanted"},
		"at any port":               {s: wire.Service{Generation: 7, Listening: true, Address: "a:22", Preview: "a:23"}, d: func(d *wire.Desired) { d.Listen, d.Preview = "127.0.0.1:0", ":0" }},
		"not applied yet":           {s: wire.Service{Generation: 6, Listening: true, Address: "a:22", Preview: "a:22"}},
		"of a later generation":     {s: wire.Service{Generation: 8, Listening: true, Address: "a:22"}, says: "at a:22, where :9001 is wanted"},
		"where it could stay":       {s: wire.Service{Generation: 7, Address: "a:22"}},
		"no preview is wanted":      {s: wire.Service{Generation: 7, Listening: true, Address: "a:9001", Preview: "a:22"}, d: func(d *wire.Desired) { d.Preview = "" }},
		"it is removed":             {s: wire.Service{Generation: 7, Listening: true, Address: "a:22"}, d: func(d *wire.Desired) { d.Removed = true }},
		"a worker is asked nothing": {s: wire.Service{Generation: 7, Listening: true, Address: "a:22"}, d: func(d *wire.Desired) { d.Listen = "" }},
	} {
		d := d
		if c.d != nil {
			c.d(&d)
		}
		PlacePorts(&c.s, d)
		if (c.s.Refused == "") != (c.says == "") || !strings.Contains(c.s.Refused, c.says) {
			t.Errorf("%s: %+v", name, c.s)
		}
		if c.says != "" && (strings.HasSuffix(c.s.Address, ":22") || strings.HasSuffix(c.s.Preview, ":22")) {
			t.Errorf("%s: the address stayed: %+v", name, c.s)
		}
	}
}

// Two hosts at one address are one, or none: who is asked there would answer for
// both.
func TestMisplaced(t *testing.T) {
	said := func(host string, services ...wire.Service) Report {
		return Report{Arrived: now, Observed: wire.Observed{Host: host, Services: services}}
	}
	at := func(address, preview, refused string) wire.Service {
		return wire.Service{Key: key, Address: address, Preview: preview, Refused: refused}
	}
	to := pipeline.Target{Hosts: []string{"a", "b"}}
	for name, c := range map[string]struct {
		reports []Report
		says    string
	}{
		"each its own":             {[]Report{said("a", at("10.0.0.5:1", "10.0.0.5:2", "")), said("b", at("10.0.0.6:1", "10.0.0.6:2", ""))}, ""},
		"nothing yet":              {[]Report{said("a", at("", "", ""))}, ""},
		"one address":              {[]Report{said("a", at("10.0.0.5:1", "", "")), said("b", at("10.0.0.5:1", "", ""))}, "hosts a and b both say that they answer at 10.0.0.5:1"},
		"one's preview":            {[]Report{said("a", at("10.0.0.5:1", "", "")), said("b", at("10.0.0.6:1", "10.0.0.5:1", ""))}, "hosts a and b both say"},
		"one that was refused":     {[]Report{said("a", at("10.0.0.5:1", "", "")), said("b", at("", "", "it is another's"))}, "host b: it is another's"},
		"from before it was known": {[]Report{said("a", at("0.0.0.0:1", "", ""))}, "host a: it says that it answers at 0.0.0.0:1"},
		"nonsense":                 {[]Report{said("a", at("nowhere", "", ""))}, "not host:port"},
		"another's service":        {[]Report{said("a", at("10.0.0.5:1", "", "")), said("c", at("10.0.0.5:1", "", "")), said("b", wire.Service{Key: release.Key{Service: "x"}, Address: "10.0.0.5:1"})}, ""},
	} {
		err := Misplaced(c.reports, key, to)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A host whose address was refused still has to hear that it is not wanted any more.
	if !Runs([]Report{said("a", at("", "", "it is another's"))}, wire.Desired{Key: key, Generation: 1}) {
		t.Error("a host is left with what it runs")
	}
}

// Whatever a host says, what is left of it is an address that its credential covers.
func FuzzPlace(f *testing.F) {
	for _, at := range []string{"10.0.0.5:9001", "0.0.0.0:1", "[::1%lo]:1", "[::ffff:127.0.0.1]:1", "a:b:c", "localhost:80", ":80"} {
		f.Add(at)
	}
	f.Fuzz(func(t *testing.T, at string) {
		o := wire.Observed{Host: "a", Services: []wire.Service{{Key: key, Address: at}}}
		Place(&o, from, func(host string) bool { return host == "10.0.0.5" })
		s := o.Services[0]
		if s.Address != "" && (s.Refused != "" || !strings.HasPrefix(s.Address, "10.0.0.5:")) || s.Address == "" && s.Refused == "" && at != "" {
			t.Errorf("%q: %+v", at, s)
		}
		PlacePorts(&s, wire.Desired{Listen: ":1"})
		_ = Misplaced([]Report{{Observed: o}}, key, pipeline.Target{Hosts: []string{"a"}})
	})
}
