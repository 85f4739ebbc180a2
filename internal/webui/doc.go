// Package webui is the web page of the control plane: what runs where, why it
// waits, what happens next, and what a person can do about it.
//
// It is an edge. It decides nothing and keeps nothing: each page is rendered on
// the server (templ) from what [Control] answers at that moment, and each button
// is a plain form that hands a person's wish to it. A form carries what the
// person saw (the revision of a rollout, the digest of an approval packet), so
// that nothing is done to something else than was looked at; the answer 409 says
// what moved.
//
// # Live pages
//
//	control ── feed ──▶ /api/v1/…/events ── SSE ──▶ htmx-ext-sse
//	                                                  │ at most every 300 ms, and
//	                                                  ▼ every 2 s while traffic moves
//	handler ◀───────── GET same URL, HX-Request ── htmx ──▶ morph into the page
//
// The page that a browser shows is always one that the server rendered: events
// say only that something happened. The morph (static/app.js) keeps focus, what
// was typed, and what was opened. A lost connection is shown, and comes back by
// itself. Without JavaScript the same pages reload by meta refresh, and every
// button works.
//
// # Security
//
// Every page but /login and /static/ needs a session, which package httpapi
// gives for the access token ([Access]). Forms of other origins are refused
// ([net/http.CrossOriginProtection]). The Content-Security-Policy allows this
// origin's files only: no inline script or style exists, so bars are SVG
// attributes. All text goes through templ's escaping; logs lose their control
// characters first.
//
// # Failure
//
// Handlers return errors; [ui.fail] maps them to a status and a page that says
// what happened, why, and what to do.
package webui

//go:generate go tool templ generate
