package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// agentToken begins a token that is good for one host's agent and nothing else.
const agentToken = "sluice-agent."

// AgentToken returns the token of one host's agent. It is derived from the access
// token, so every replica knows it, and it ends when that is changed. at are
// addresses where the host may say that its services answer, besides the one that
// it calls from. Tokens of earlier builds have no "~" and say nothing of addresses.
func (a *Access) AgentToken(host string, at ...string) string {
	names := base64.RawURLEncoding.EncodeToString([]byte(host)) + "~"
	for i, address := range at {
		if i > 0 {
			names += "~"
		}
		names += base64.RawURLEncoding.EncodeToString([]byte(address))
	}
	return a.signed(names)
}

func (a *Access) signed(names string) string {
	m := hmac.New(sha256.New, a.token)
	m.Write([]byte("agent " + names))
	return agentToken + names + "." + hex.EncodeToString(m.Sum(nil))
}

// maxAgentToken bounds an agent's token, in bytes.
const maxAgentToken = 4 << 10

// bearer is what an agent's token says. One that is not bound says nothing of
// addresses.
type bearer struct {
	host  string
	at    []string
	bound bool
}

// agentOf returns what an agent's token says.
func (a *Access) agentOf(token string) (b bearer, ok bool) {
	rest, ok := strings.CutPrefix(token, agentToken)
	if !ok || len(rest) > maxAgentToken {
		return bearer{}, false
	}
	names, _, _ := strings.Cut(rest, ".")
	if !hmac.Equal([]byte(token), []byte(a.signed(names))) {
		return bearer{}, false
	}
	host, at, bound := strings.Cut(names, "~")
	b.bound = bound
	name, err := base64.RawURLEncoding.DecodeString(host)
	if err != nil {
		return bearer{}, false
	}
	b.host = string(name)
	for _, x := range strings.Split(at, "~") {
		address, err := base64.RawURLEncoding.DecodeString(x)
		if err != nil {
			return bearer{}, false
		}
		if len(address) > 0 {
			b.at = append(b.at, string(address))
		}
	}
	return b, true
}

// RequireCertificates has agents of other machines show a client certificate of
// their host's name: no token takes its place. TLS must verify them, by its ClientCAs.
func (a *Access) RequireCertificates() { a.certificates = true }

// BehindProxy says that requests come by way of something that does TLS: where they
// come from is not where their hosts are.
func (a *Access) BehindProxy() { a.proxied = true }

// Speaks says which hosts a caller may speak for, as their agent.
type Speaks func(host string) error

// Agent returns for whom the request may speak as an agent; nil for nobody. The
// access token may speak for all.
func (a *Access) Agent(r *http.Request) Speaks {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		leaf := r.TLS.VerifiedChains[0][0]
		return func(host string) error {
			if names := namesOf(leaf); !slices.Contains(names, host) {
				return fmt.Errorf("the certificate is of %s, not of host %s", strings.Join(names, ", "), host)
			}
			return nil
		}
	}
	if a.certificates && !sameMachine(r) {
		return nil
	}
	if a.Bears(r) {
		return func(string) error { return nil }
	}
	of, ok := a.agentOf(bearerToken(r))
	if !ok {
		return nil
	}
	return func(host string) error {
		if host != of.host {
			return fmt.Errorf("the token is of host %s, not of host %s", of.host, host)
		}
		return nil
	}
}

// namesOf are the hosts that a certificate is of. A wildcard is of none: it would
// let one host speak for others.
func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	if len(names) == 0 && c.Subject.CommonName != "" {
		names = []string{c.Subject.CommonName}
	}
	return names
}

// answers says at which addresses the host of an agent's request may say that its
// services answer: where it calls from, and what its certificate or token names. nil:
// the access token may say anything, as it may do anything.
func (a *Access) answers(r *http.Request) func(address string) bool {
	var names []string
	var ips []netip.Addr
	anywhere := false // see unbound
	of, ok := a.agentOf(bearerToken(r))
	switch {
	case r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		leaf := r.TLS.VerifiedChains[0][0]
		names = leaf.DNSNames
		for _, ip := range leaf.IPAddresses {
			if addr, ok := netip.AddrFromSlice(ip); ok {
				ips = append(ips, addr.Unmap())
			}
		}
	case ok:
		names, anywhere = of.at, !of.bound
	default:
		return nil
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			ips = append(ips, ip.Unmap())
		}
	}
	peer := a.cameFrom(r)
	same := peer.IsValid() && sameMachine(r)
	return func(address string) bool {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return slices.Contains(names, address)
		}
		ip = ip.Unmap()
		if anywhere && !ours(ip) && !ip.IsLinkLocalUnicast() {
			return true
		}
		return peer.IsValid() && ip == peer || slices.Contains(ips, ip) || same && ours(ip)
	}
}

// unbound says whether an agent's token is of a build that bound hosts to no
// addresses: any may be reported with it, but the server's own and those of no network.
func (a *Access) unbound(r *http.Request) bool {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return false
	}
	of, ok := a.agentOf(bearerToken(r))
	return ok && !of.bound
}

// cameFrom is where the host of an agent's request is, as far as the connection
// tells: one that was passed on is the proxy's. The access token may do anything, so
// where it comes from is believed.
func (a *Access) cameFrom(r *http.Request) netip.Addr {
	passed := a.proxied || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "" || r.Header.Get("Via") != ""
	if passed && !a.Bears(r) {
		return netip.Addr{}
	}
	return peerOf(r)
}

// peerOf is the address that a request comes from; the zero one if it is not known.
func peerOf(r *http.Request) netip.Addr {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return remote.Addr().Unmap().WithZone("")
}

// ours says whether an address is one of this machine.
func ours(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		return ok && addr.Unmap() == ip
	})
}

// sameMachine says whether the other end is on this machine.
func sameMachine(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if remote.Addr().Unmap().IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(fmt.Stringer)
	if !ok {
		return false
	}
	l, err := netip.ParseAddrPort(local.String())
	return err == nil && l.Addr().Unmap() == remote.Addr().Unmap()
}

type speaksKey struct{}

// guardAgent lets agents through. Each handler asks mayNot for the host.
func (s *Server) guardAgent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		speaks := s.cfg.Access.Agent(r)
		if speaks == nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
			why := "the agent's token is missing or wrong: sluice agent-token HOST prints it, on the server"
			if s.cfg.Access.certificates {
				why = "this server wants a client certificate of the host's name (sluice agent --tls-cert, --tls-key), signed by its --tls-ca"
			}
			hurry(w)
			problem(w, http.StatusUnauthorized, why)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), speaksKey{}, speaks)))
	})
}

// mayNot answers the request when its caller does not speak for the host.
func mayNot(w http.ResponseWriter, r *http.Request, host string) bool {
	speaks, ok := r.Context().Value(speaksKey{}).(Speaks)
	if !ok {
		problem(w, http.StatusForbidden, "no agent is known here")
		return true
	}
	if err := speaks(host); err != nil {
		problem(w, http.StatusForbidden, err.Error())
		return true
	}
	return false
}
