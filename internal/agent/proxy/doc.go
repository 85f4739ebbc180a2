// Package proxy is the HTTP/1.1 router in front of one service: it splits
// requests between revisions by weight and counts how each attempt ended.
//
//	client ── conn (one goroutine) ── pick revision ── pick instance ── pooled
//	          strict parser           Table, atomic    round robin      connection
//
// A [Server] has one immutable routing table, swapped whole by [Server.Set]. A
// request reads the table once, when its head is complete; the next request,
// also on the same connection, sees the new table. So weight 0 means that no
// request that begins after Set has returned goes there, whatever a cookie says.
//
// Invariants:
//   - An instance that left the table gets no new request, and Drained
//     returns only after its open ones ended (or the time was up): a request first
//     takes a hold on the instance and then looks whether it left meanwhile.
//   - Each attempt is counted once, in one bucket of one revision: as a request
//     when its response head arrived or when it failed, as cancelled when the
//     client left before that. See [wire.Counters] and judge.md, http-errors.
//   - Assignment is monotone: a sticky user's hash is compared with the
//     candidates' summed weight, so raising it only moves users to them. All hosts
//     agree because the hash is seeded by the service's name alone.
//   - Framing is never guessed. Where two parsers could differ on where a message
//     ends (both lengths, obs-fold, bare LF, odd chunk sizes, …) the message is
//     refused: 400 to a client, 502 for a service. What is sent on is framed anew.
//
// Why not net/http or fasthttp: a net/http reverse proxy reaches 0.65 of nginx's
// rate here, and fasthttp neither sees a client leave nor relays interim
// responses and trailers. The parser is small, and is held against net/http's by
// a differential fuzz test: what it accepts, net/http accepts with equal framing.
//
// Failure behaviour: a refused connection (nothing was sent) or a connection that
// broke before any answer to an idempotent request whose body is still at hand
// is tried once more on another instance of the same revision, never of another
// one. No answer in time is 504, no connection 502, no ready instance 503.
// HTTP/2 and CONNECT are not spoken.
package proxy
