package httpapi

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/http"
	"testing"
)

// Where a host may say that its services answer is bound to its credential: to where
// it calls from, and to the addresses of its certificate or its token.
func TestAHostAnswersWhereItsCredentialSays(t *testing.T) {
	const token = "an access token that is long"
	access, err := NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{DNSNames: []string{"web-1"}, IPAddresses: []net.IP{net.IPv4(10, 1, 0, 5)}}
	const far, near = "192.0.2.7:4711", "127.0.0.1:4711"
	two := access.AgentToken("web-1", "10.1.0.5", "2001:db8::5")
	for name, c := range map[string]struct {
		r       *http.Request
		address string
		want    bool
	}{
		"where it calls from":                  {request(far, access.AgentToken("web-1"), nil), "192.0.2.7", true},
		"the same in other words":              {request(far, access.AgentToken("web-1"), nil), "::ffff:192.0.2.7", true},
		"another's":                            {request(far, access.AgentToken("web-1"), nil), "192.0.2.8", false},
		"the server's own":                     {request(far, access.AgentToken("web-1"), nil), "127.0.0.1", false},
		"a name":                               {request(far, access.AgentToken("web-1"), nil), "web-1", false},
		"the first that the token names":       {request(far, two, nil), "10.1.0.5", true},
		"the second":                           {request(far, two, nil), "2001:db8:0::5", true},
		"and where it calls from":              {request(far, two, nil), "192.0.2.7", true},
		"what the token does not name":         {request(far, two, nil), "10.1.0.6", false},
		"an address of the certificate":        {request(far, "", cert), "10.1.0.5", true},
		"a name of the certificate":            {request(far, "", cert), "web-1", true},
		"what the certificate does not name":   {request(far, "", cert), "10.1.0.6", false},
		"the access token says nothing of it":  {request(far, token, cert), "10.1.0.6", false},
		"on the server's machine its loopback": {request(near, access.AgentToken("web-1"), nil), "127.0.0.2", true},
		"but not another machine":              {request(near, access.AgentToken("web-1"), nil), "192.0.2.8", false},
		"the cloud's own":                      {request(far, access.AgentToken("web-1"), nil), "169.254.169.254", false},
		"from where nobody knows, nothing":     {request("@", access.AgentToken("web-1"), nil), "192.0.2.7", false},
		"one that begins as one of its own":    {request(far, two, nil), "10.1.0.50", false},
	} {
		mine := access.answers(c.r)
		if mine == nil || mine(c.address) != c.want {
			t.Errorf("%s: %s is not %t", name, c.address, c.want)
		}
	}
	if access.answers(request(far, token, nil)) != nil {
		t.Error("the access token, which may do anything, is bound")
	}
	// The machine's other addresses are its own too, whichever a local agent comes by.
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			r := request(net.JoinHostPort(n.IP.String(), "4711"), access.AgentToken("web-1"), nil)
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: n.IP, Port: 8711}))
			if !access.answers(r)("127.0.0.1") {
				t.Errorf("%s is not this machine", n.IP)
			}
		}
	}
	// A token's addresses are signed with its host.
	if _, ok := access.agentOf(two[:len(two)-1]); ok {
		t.Error("a token that was cut is taken")
	}
	plain := access.AgentToken("web-1")
	if _, ok := access.agentOf(plain[:len(plain)-65] + "~MTAuMS4wLjY" + plain[len(plain)-65:]); ok {
		t.Error("an address was added to a token")
	}
	if b, ok := access.agentOf(two); !ok || b.host != "web-1" || len(b.at) != 2 || b.at[0] != "10.1.0.5" || !b.bound {
		t.Errorf("%+v, %t", b, ok)
	}
	if b, ok := access.agentOf(plain); !ok || b.host != "web-1" || len(b.at) != 0 || !b.bound {
		t.Errorf("%+v, %t", b, ok)
	}
	if _, ok := access.agentOf(earlier(access, "web-1") + "~"); ok {
		t.Error("a token that was added to is taken")
	}
}

// earlier is a token of a build that bound hosts to no addresses.
func earlier(a *Access, host string) string {
	return a.signed(base64.RawURLEncoding.EncodeToString([]byte(host)))
}

// Tokens that were given out before addresses were bound go on to be taken, for any
// address but the server's own: an upgrade cuts no host off.
func TestATokenOfAnEarlierBuildBindsNoAddress(t *testing.T) {
	access, err := NewAccess("an access token that is long")
	if err != nil {
		t.Fatal(err)
	}
	old := earlier(access, "web-1")
	r := request("192.0.2.7:4711", old, nil)
	if speaks := access.Agent(r); speaks == nil || speaks("web-1") != nil || speaks("web-2") == nil {
		t.Fatal("it is not its host's any more")
	}
	for address, want := range map[string]bool{"192.0.2.7": true, "10.9.9.9": true, "127.0.0.1": false, "::1": false, "169.254.169.254": false, "web-2": false} {
		if access.answers(r)(address) != want {
			t.Errorf("%s is not %t", address, want)
		}
	}
	cert := &x509.Certificate{DNSNames: []string{"web-1"}}
	with := request("192.0.2.7:4711", old, cert)
	if !access.unbound(r) || access.unbound(request("192.0.2.7:4711", access.AgentToken("web-1"), nil)) || access.unbound(with) || access.answers(with)("10.9.9.9") {
		t.Error("what is bound is taken for what is not")
	}
}

// Behind something that does TLS every agent seems to be on its machine: a host's
// credential leads nobody there, nor to the server's own.
func TestBehindAProxyNobodyIsLocal(t *testing.T) {
	const token = "an access token that is long"
	for name, c := range map[string]struct {
		insecure bool
		header   string
	}{"--insecure-listen": {insecure: true}, "a proxy on loopback": {header: "X-Forwarded-For"}, "one of RFC 7239": {header: "Forwarded"}} {
		access, err := NewAccess(token)
		if err != nil {
			t.Fatal(err)
		}
		if c.insecure {
			access.BehindProxy()
		}
		for _, bearer := range []string{access.AgentToken("web-1", "10.1.0.5"), earlier(access, "web-1")} {
			r := request("127.0.0.1:4711", bearer, nil)
			if c.header != "" {
				r.Header.Set(c.header, "192.0.2.7")
			}
			mine := access.answers(r)
			if mine("127.0.0.1") || mine("::1") || !mine("10.1.0.5") || access.cameFrom(r).IsValid() {
				t.Errorf("%s: a host is where the proxy is", name)
			}
		}
		if r := request("127.0.0.1:4711", token, nil); !access.cameFrom(r).IsValid() {
			t.Errorf("%s: the server's own agent is nowhere", name)
		}
	}
}

func FuzzAgentTokenWithAddresses(f *testing.F) {
	access, err := NewAccess("an access token that is long")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(access.AgentToken("web-1", "10.0.0.5"))
	f.Add(earlier(access, "web-1"))
	f.Add("sluice-agent.~.")
	f.Add("sluice-agent.d2ViLTE~~.00")
	f.Fuzz(func(t *testing.T, token string) {
		if b, ok := access.agentOf(token); ok && token != access.AgentToken(b.host, b.at...) && token != earlier(access, b.host) {
			t.Errorf("%q passes as host %q's", token, b.host)
		}
	})
}
