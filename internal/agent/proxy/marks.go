package proxy

import (
	"bytes"
	"crypto/subtle"
)

// Headers of ours, in lower case. What a client sends under these names never
// reaches a service; only what the proxy says itself does.
const (
	shadowHeader    = "sluice-shadow"    // 1: nobody will see the answer
	syntheticHeader = "sluice-synthetic" // 1: no user asked. To the proxy: the token
)

// session is the control plane's own cookie. A browser sends it to every port of
// the control plane's host name, services' ports too, and takes it from them.
const session = "sluice-session"

// knows says whether token marks a request as Sluice's own.
func (s *Server) knows(token []byte) bool {
	return s.opt.Token != "" && subtle.ConstantTimeCompare(token, []byte(s.opt.Token)) == 1
}

// withoutSession takes the control plane's cookie out of a Cookie header. It
// returns list itself when it isn't there.
func withoutSession(list []byte) []byte {
	if !bytes.Contains(list, []byte(session)) {
		return list
	}
	out := make([]byte, 0, len(list))
	for pair := range bytes.SplitSeq(list, []byte(";")) {
		name, _, _ := bytes.Cut(pair, []byte("="))
		if pair = trim(pair); len(pair) == 0 || string(trim(name)) == session {
			continue
		}
		if len(out) > 0 {
			out = append(out, "; "...)
		}
		out = append(out, pair...)
	}
	return out
}

// setsSession says whether a Set-Cookie header is about the control plane's cookie.
func setsSession(value []byte) bool {
	pair, _, _ := bytes.Cut(value, []byte(";"))
	name, _, _ := bytes.Cut(pair, []byte("="))
	return string(trim(name)) == session
}

// saysProxy are the headers in which a service believes the proxy.
var saysProxy = [...]string{shadowHeader, syntheticHeader, "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}

// forged says whether a header's name is one of those with _ for -. Services by way
// of CGI, WSGI and the like can't tell the two apart, and no proxy sends the other.
func forged(name []byte) bool {
	if bytes.IndexByte(name, '_') < 0 {
		return false
	}
	for _, n := range saysProxy {
		if means(name, n) {
			return true
		}
	}
	return false
}

// means is foldEqual that takes _ for -.
func means(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '_':
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
