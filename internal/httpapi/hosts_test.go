package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func request(remote, bearer string, cert *x509.Certificate) *http.Request {
	r := httptest.NewRequest("GET", "/agent/v1/desired?host=web-1", nil)
	r.RemoteAddr = remote
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	if cert != nil {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	}
	return r
}

func TestAnAgentSpeaksForItsHost(t *testing.T) {
	const token = "an access token that is long"
	access, err := NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAccess(token + "er")
	if err != nil {
		t.Fatal(err)
	}
	strict, err := NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	strict.RequireCertificates()
	cert := &x509.Certificate{DNSNames: []string{"web-1", "web-1.example"}}
	named := &x509.Certificate{Subject: pkix.Name{CommonName: "web-1"}}
	wild := &x509.Certificate{DNSNames: []string{"*.example"}}
	const far, near = "192.0.2.7:4711", "127.0.0.1:4711"
	for name, c := range map[string]struct {
		access *Access
		r      *http.Request
		host   string
		want   string // "": may; "nobody": is not let in; else part of the reason
	}{
		"the access token speaks for all":        {access, request(far, token, nil), "web-1", ""},
		"a host's token for its own":             {access, request(far, access.AgentToken("web-1"), nil), "web-1", ""},
		"and for no other":                       {access, request(far, access.AgentToken("web-1"), nil), "web-2", "the token is of host web-1"},
		"a token of another server":              {access, request(far, other.AgentToken("web-1"), nil), "web-1", "nobody"},
		"a token that was cut":                   {access, request(far, access.AgentToken("web-1")[:40], nil), "web-1", "nobody"},
		"no token":                               {access, request(far, "", nil), "web-1", "nobody"},
		"a certificate for its host":             {strict, request(far, "", cert), "web-1", ""},
		"by its common name":                     {strict, request(far, "", named), "web-1", ""},
		"and for no other host":                  {strict, request(far, token, cert), "web-2", "the certificate is of web-1"},
		"a wildcard speaks for nobody":           {strict, request(far, "", wild), "web-1.example", "not of host"},
		"certificates are wanted: no token does": {strict, request(far, token, nil), "web-1", "nobody"},
		"but on this machine":                    {strict, request(near, token, nil), "web-1", ""},
		"with a host's token too":                {strict, request(near, access.AgentToken("web-1"), nil), "web-1", ""},
	} {
		speaks := c.access.Agent(c.r)
		got := "nobody"
		if speaks != nil {
			got = ""
			if err := speaks(c.host); err != nil {
				got = err.Error()
			}
		}
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if c.want == "nobody" && speaks != nil {
			t.Errorf("%s: let in", name)
		}
	}
	// The server's own agent may come by an address that is not loopback.
	own := request("192.0.2.1:4711", token, nil)
	own = own.WithContext(context.WithValue(own.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8711}))
	if strict.Agent(own) == nil {
		t.Error("the agent on the server's machine is not let in")
	}
	// An agent's credential is not the API's.
	if access.Allowed(request(far, access.AgentToken("web-1"), nil)) {
		t.Error("a host's token does everything")
	}
	if strict.Allowed(request(far, "", cert)) {
		t.Error("a host's certificate does everything")
	}
}

func FuzzAgentToken(f *testing.F) {
	access, err := NewAccess("an access token that is long")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(access.AgentToken("web-1"))
	f.Add("sluice-agent..")
	f.Add("sluice-agent.d2ViLTE.00")
	f.Fuzz(func(t *testing.T, token string) {
		if b, ok := access.agentOf(token); ok && token != access.AgentToken(b.host, b.at...) && token != earlier(access, b.host) {
			t.Errorf("%q passes as host %q's", token, b.host)
		}
	})
}
