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
