package httpapi

import (
	"context"
	"crypto/x509"
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
	if host, at, ok := access.agentAt(two); !ok || host != "web-1" || len(at) != 2 || at[0] != "10.1.0.5" {
		t.Errorf("%q, %q, %t", host, at, ok)
	}
}

func FuzzAgentTokenWithAddresses(f *testing.F) {
	access, err := NewAccess("an access token that is long")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(access.AgentToken("web-1", "10.0.0.5"))
	f.Add("sluice-agent.~.")
	f.Add("sluice-agent.d2ViLTE~~.00")
	f.Fuzz(func(t *testing.T, token string) {
		if host, at, ok := access.agentAt(token); ok && token != access.AgentToken(host, at...) {
			t.Errorf("%q passes as host %q's", token, host)
		}
	})
}
