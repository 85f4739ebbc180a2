// Package proxy is the router in front of one service: it splits requests between
// revisions by weight and counts how each attempt ended. It speaks HTTP/1.1,
// HTTP/2, gRPC and WebSocket.
//
//	client ── conn (one goroutine) ── pick revision ── pick instance ── pooled
//	          strict parser           Table, atomic    round robin      connection
//
// HTTP/1.1 is parsed here. A connection whose first bytes are HTTP/2's preface, or
// that chose it by ALPN, goes to net/http's server instead, and each of its streams
// through net/http/httputil's proxy, around the same choice and counters:
//
//	client ── net/http ── stream ── pick revision ── pick instance ── net/http
//	          frames, HPACK          the same Table   round robin     HTTP/2 or 1.1
//
// What an instance speaks is asked until it says it, when streams come; gRPC takes
// HTTP/2 for granted. golang.org/x/net/http2 is the same code, with its own API
// deprecated in favour of net/http's.
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
//   - A call of gRPC is counted when its trailers came, by their status: UNKNOWN,
//     DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS are bad, CANCELLED is in
//     neither count. A client that leaves when its own grpc-timeout is over, or a
//     little before, did so because the service was late: bad. A WebSocket counts
//     its handshake.
//   - Copies (a revision's Shadow) and requests of our own ([Server.Synthesize]) are
//     in counters of their own and in no user's. A copy never delays a user: it is
//     made of the bytes that were sent anyway, and dropped when too many are open.
//     Copied is what may be made twice and has no body: GET, HEAD and OPTIONS. So
//     unary gRPC, which is POST, is not. A copy carries Sluice-Shadow: 1.
//   - Headers by which Sluice marks requests, and the control plane's session
//     cookie, never come through from a client; that cookie can't be set by a
//     service either.
//   - Assignment is monotone: a sticky user's hash is compared with the
//     candidates' summed weight, so raising it only moves users to them. All hosts
//     agree because the hash is seeded by the service's name alone.
//   - A server that hands over closes no HTTP/1.1 connection: each one goes on elsewhere
//     with what was read of it, and so do the counts. See HandOver.
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
// one. No answer in time is 504, no connection 502, no ready instance 503; to a call
// of gRPC they are DEADLINE_EXCEEDED and UNAVAILABLE, in trailers. A call has its
// client's deadline alone: an instance that hangs fails HTTP/2's ping. What lasts (a
// tunnel, a call) is cut when its instance's time to drain is up, or DrainIn after
// its revision's weight became 0: such an end is nobody's failure, and in no count.
//
// Bounds of HTTP/2: 64 KiB of headers, 250 streams on a connection and MaxConns in
// all, 256 KiB of a body that nobody takes, KeepAlive without streams, a ping after
// 30 s of silence, and ClientBody for bodies that stand still. CONNECT is not
// spoken, so neither is WebSocket over HTTP/2: browsers take HTTP/1.1 for it.
package proxy
