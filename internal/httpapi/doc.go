// Package httpapi is the HTTP edge of the control plane: the REST API with its
// OpenAPI document, live events, the agents' protocol, and who may call them.
// It decides nothing and knows no SQL: it calls package control and says in
// problem+json (RFC 9457) what came of it.
//
// Access: every path but /healthz, /readyz and the log-in needs the access
// token, as a bearer token or as the session cookie that a browser got for it.
// The server listens on loopback unless TLS is set up, so that the operating
// system knows who is at the other end of a connection: that user is the actor
// of what is done ([Peer]).
//
// Browsers may call the API with a session from this server's own pages only; where
// no browser is meant to call (agents, the registry) the session is worth nothing, and
// who shows no credential has not for ever to send a body.
//
// Agents have a path of their own, /agent/v1/, and a credential for each host: its
// client certificate, or a token that is good for that host alone (hosts.go). With it
// an agent can neither call the API nor speak for another host; the access token
// speaks for every host, unless certificates are required. Where a host says that its
// services answer is held to its credential too ([control.Controller.Placed]).
package httpapi
