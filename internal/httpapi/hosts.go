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
// it calls from.
func (a *Access) AgentToken(host string, at ...string) string {
	names := base64.RawURLEncoding.EncodeToString([]byte(host))
	for _, address := range at {
		names += "~" + base64.RawURLEncoding.EncodeToString([]byte(address))
	}
	m := hmac.New(sha256.New, a.token)
	m.Write([]byte("agent " + names))
	return agentToken + names + "." + hex.EncodeToString(m.Sum(nil))
}

// maxAgentToken bounds an agent's token, in bytes.
const maxAgentToken = 4 << 10

// agentOf returns whose agent a token is of.
func (a *Access) agentOf(token string) (host string, ok bool) {
	host, _, ok = a.agentAt(token)
	return host, ok
}

// agentAt returns whose agent a token is of, and the addresses that it names.
func (a *Access) agentAt(token string) (host string, at []string, ok bool) {
	rest, ok := strings.CutPrefix(token, agentToken)
	if !ok || len(rest) > maxAgentToken {
		return "", nil, false
	}
	names, _, _ := strings.Cut(rest, ".")
	for i, name := range strings.Split(names, "~") {
		b, err := base64.RawURLEncoding.DecodeString(name)
		if err != nil {
			return "", nil, false
		}
		if i == 0 {
			host = string(b)
		} else {
			at = append(at, string(b))
		}
	}
	return host, at, hmac.Equal([]byte(token), []byte(a.AgentToken(host, at...)))
}

// RequireCertificates has agents of other machines show a client certificate of
// their host's name: no token takes its place. TLS must verify them, by its ClientCAs.
func (a *Access) RequireCertificates() { a.certificates = true }

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
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	of, ok := a.agentOf(token)
	if !ok {
		return nil
	}
	return func(host string) error {
		if host != of {
			return fmt.Errorf("the token is of host %s, not of host %s", of, host)
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
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch of, at, ok := a.agentAt(token); {
	case r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		leaf := r.TLS.VerifiedChains[0][0]
		names = leaf.DNSNames
		for _, ip := range leaf.IPAddresses {
			if addr, ok := netip.AddrFromSlice(ip); ok {
				ips = append(ips, addr.Unmap())
			}
		}
	case ok && of != "":
		names = at
	default:
		return nil
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			ips = append(ips, ip.Unmap())
		}
	}
	peer := peerOf(r)
	same := sameMachine(r)
	return func(address string) bool {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return slices.Contains(names, address)
		}
		ip = ip.Unmap()
		return ip == peer || slices.Contains(ips, ip) || same && ours(ip)
	}
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
