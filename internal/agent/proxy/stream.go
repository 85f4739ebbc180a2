package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errNoRevision = errors.New("no revision of this service takes traffic")
	errNotReady   = errors.New("no instance of the service's revision is ready")
	errUnreached  = errors.New("the service's instance could not be reached")
	errDeadline   = errors.New("the call's deadline is over")
	errCut        = errors.New("its revision ended")
)

// stream is one request of an HTTP/2 connection. What is true of a request of
// HTTP/1.1 is of it: the same table, holds, counters and headers. Of gRPC the
// outcome is known when the trailers came, and it is counted then.
type stream struct {
	srv       *Server
	t         *table
	hash      uint64
	setCookie string
	synthetic bool
	grpc      bool
	safe      bool // has no body, and may be made again
	timeout   time.Duration
	began     time.Time
	client    context.Context // done when the client left
	cancel    context.CancelCauseFunc

	mu   sync.Mutex
	ctl  *http.ResponseController
	over bool // the handler returned: ctl must not be used any more
}

// Sides of a stream that may be late.
type side uint8

const (
	reading side = 1 << iota
	writing
)

// hurry ends what waits for the client on a side of the stream.
func (x *stream) hurry(s side) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return
	}
	past := time.Unix(1, 0)
	if s&reading != 0 {
		_ = x.ctl.SetReadDeadline(past)
	}
	if s&writing != 0 {
		_ = x.ctl.SetWriteDeadline(past)
	}
}

// end cuts the stream off. What reads the request's body does not look at its
// context: it is told apart.
func (x *stream) end(cause error) {
	x.cancel(cause)
	x.hurry(reading)
}

func (x *stream) done() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
}

type streamKey struct{}

// stream serves one request of an HTTP/2 connection.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	x := &stream{
		srv: s, t: s.table.Load(), grpc: isGRPC(r.Header.Get("Content-Type")),
		began: time.Now(), client: r.Context(), ctl: http.NewResponseController(w),
	}
	if s.closing.Load() {
		w.Header().Set("Connection", "close") // sends GOAWAY
	}
	defer s.open.Add(-1)
	defer x.done()
	switch {
	case s.open.Add(1) > int64(s.opt.MaxConns):
		x.refuse(w, 503, "too many streams")
		return
	case r.Method == http.MethodConnect:
		x.refuse(w, 501, "CONNECT is not spoken here")
		return
	}
	x.hash, x.setCookie = s.placeHeader(r.Header, x.t)
	if x.synthetic = s.knows([]byte(r.Header.Get(syntheticHeader))); x.synthetic {
		x.setCookie = ""
	}
	x.safe = r.ContentLength == 0 && safe([]byte(r.Method))
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), streamKey{}, x))
	defer cancel(nil)
	x.cancel = cancel
	if x.grpc {
		if x.timeout = grpcTimeout(r.Header.Get("Grpc-Timeout")); x.timeout > 0 {
			// The client gives up by itself; this is for one that vanished.
			t := time.AfterFunc(x.timeout+pastDeadline, func() { x.end(errDeadline) })
			defer t.Stop()
		}
	} else {
		// A client that takes nothing for too long holds an instance up.
		pace := time.AfterFunc(time.Hour, func() { x.hurry(writing) })
		pace.Stop()
		defer pace.Stop()
		w = &paced{ResponseWriter: w, t: pace, d: s.opt.ClientBody}
	}
	s.relay.ServeHTTP(w, r.WithContext(ctx))
}

// pastDeadline is how long after a call's deadline the proxy ends it, and how much
// earlier a client that leaves may be said to have left because of it.
const pastDeadline = 500 * time.Millisecond

// newRelay is what moves streams: net/http/httputil's proxy, around our choice of
// an instance and our counting.
func (s *Server) newRelay() *httputil.ReverseProxy {
	of := func(r *http.Request) *stream { return r.Context().Value(streamKey{}).(*stream) }
	return &httputil.ReverseProxy{
		Rewrite:   rewrite,
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return of(r).roundTrip(r) }),
		ModifyResponse: func(res *http.Response) error {
			of(res.Request).mend(res.Header)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { of(r).fail(w, err) },
		BufferPool:   &buffers{},
		ErrorLog:     slog.NewLogLogger(s.opt.Logger.Handler(), slog.LevelDebug),
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// rewrite is buildRequest for streams.
func rewrite(p *httputil.ProxyRequest) {
	in, out := p.In, p.Out
	out.URL.Scheme, out.URL.Host, out.URL.RawQuery = "http", "instance", in.URL.RawQuery
	out.Trailer = in.Trailer // the very same map: it is filled when the body ended
	h := out.Header
	h.Del(shadowHeader)
	h.Del(syntheticHeader)
	for name := range h {
		if forged([]byte(name)) {
			delete(h, name)
		}
	}
	if in.Context().Value(streamKey{}).(*stream).synthetic {
		h.Set(syntheticHeader, "1")
	}
	var cookies []string
	for _, c := range h["Cookie"] {
		if c := withoutSession([]byte(c)); len(c) > 0 {
			cookies = append(cookies, string(c))
		}
	}
	if delete(h, "Cookie"); len(cookies) > 0 {
		h["Cookie"] = cookies
	}
	var peer string
	var trusted bool
	if a, err := netip.ParseAddrPort(in.RemoteAddr); err == nil {
		ip := a.Addr().Unmap()
		peer, trusted = ip.WithZone("").String(), ip.IsLoopback() || ip.IsPrivate()
	}
	through, proto, host := peer, "http", in.Host
	if in.TLS != nil {
		proto = "https"
	}
	if trusted {
		if prior := in.Header["X-Forwarded-For"]; len(prior) > 0 {
			through = strings.Join(prior, ", ") + ", " + peer
		}
		if v := in.Header["Forwarded"]; len(v) > 0 {
			h["Forwarded"] = v
		}
		if v := in.Header.Get("X-Forwarded-Proto"); v != "" {
			proto = v
		}
		if v := in.Header.Get("X-Forwarded-Host"); v != "" {
			host = v
		}
	}
	h.Set("X-Forwarded-For", through)
	h.Set("X-Forwarded-Proto", proto)
	if host != "" {
		h.Set("X-Forwarded-Host", host)
	}
}

// placeHeader is place for streams.
func (s *Server) placeHeader(h http.Header, t *table) (hash uint64, setCookie string) {
	if name := t.sticky.Header; name != "" {
		if v := h.Get(name); v != "" {
			return hashOf(s.seed, []byte(v)), ""
		}
	}
	if name := t.sticky.Cookie; name != "" {
		for _, list := range h["Cookie"] {
			if v := cookie([]byte(list), name); len(v) > 0 {
				return hashOf(s.seed, v), ""
			}
		}
		return s.newcomer(name)
	}
	return rand.Uint64(), ""
}

// mend does to an answer's head what relay does.
func (x *stream) mend(h http.Header) {
	if set := h["Set-Cookie"]; len(set) > 0 {
		kept := set[:0]
		for _, c := range set {
			if !setsSession([]byte(c)) {
				kept = append(kept, c)
			}
		}
		if h["Set-Cookie"] = kept; len(kept) == 0 {
			delete(h, "Set-Cookie")
		}
	}
	if x.setCookie != "" {
		h.Add("Set-Cookie", x.setCookie)
	}
}

// roundTrip gets an answer's head, from a second instance where that is harmless.
func (x *stream) roundTrip(req *http.Request) (*http.Response, error) {
	s, t := x.srv, x.t
	var not *backend
	for try := 0; ; try++ {
		rev, b := s.choose(t, x.hash, not)
		if rev == nil {
			return nil, errNoRevision
		}
		k := rev.bucket(x.synthetic, rand.IntN(shards), x.hash)
		if b == nil {
			if try > 0 {
				return nil, errUnreached
			}
			k.failed()
			return nil, errNotReady
		}
		if try == 0 && x.safe && !x.synthetic && !x.grpc && len(t.shadows) > 0 {
			s.mirror(t, rev, copied{hash: x.hash, req: req})
		}
		a := &attempt{x: x, b: b, k: k, started: time.Now()}
		res, err := a.do(req)
		if err == nil {
			return res, nil
		}
		again := errors.Is(err, errDial) || req.Body == nil && idempotent([]byte(req.Method)) && context.Cause(req.Context()) == nil
		if !again || try > 0 || len(rev.backends) < 2 {
			s.opt.Logger.Debug("an attempt failed", "release", rev.id.Short(), "instance", b.ID, "error", err)
			return nil, err
		}
		not, t = b, s.table.Load()
	}
}

// attempt is one try of a stream on one instance. It is counted once, in end.
type attempt struct {
	x       *stream
	b       *backend
	k       *bucket
	started time.Time
	head    atomic.Bool   // it came
	latency time.Duration // until the head
	clock   *time.Timer   // for the head
	forget  func()
	once    sync.Once
}

// do sends the request and waits for the answer's head.
func (a *attempt) do(req *http.Request) (*http.Response, error) {
	x, o := a.x, &a.x.srv.opt
	a.forget = a.b.onCut(func() { x.end(errCut) })
	h2c, err := x.grpc, error(nil)
	if !h2c {
		if h2c, err = a.b.speaksH2(req.Context(), o); err != nil {
			return nil, a.lost(req, err)
		}
		// A call of gRPC has its own deadline, and may be silent for as long.
		a.clock = time.AfterFunc(o.HeaderTimeout, func() {
			if !a.head.Load() {
				x.end(errTimeout)
			}
		})
	}
	if req.Body != nil {
		again := *req
		req, again.Body = &again, &sentBody{ReadCloser: req.Body, a: a}
	}
	res, err := a.b.transport(h2c, o).RoundTrip(req)
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		_ = res.Body.Close()
		err = syntax("101 that nobody asked for")
	}
	if err != nil {
		return nil, a.lost(req, err)
	}
	if h2c {
		a.b.speech.Store(int32(speaksH2))
	}
	a.latency = time.Since(a.started)
	a.head.Store(true)
	if a.clock != nil {
		a.clock.Stop()
	}
	if !x.grpc {
		a.count(outcomeOf(res.StatusCode >= 500))
	}
	res.Body = &takenBody{ReadCloser: res.Body, a: a, res: res}
	return res, nil
}

// lost counts an attempt that had no answer, and says why.
func (a *attempt) lost(req *http.Request, err error) error {
	if a.clock != nil {
		a.clock.Stop()
	}
	if cause := context.Cause(req.Context()); cause != nil && !errors.Is(err, errDial) {
		err = cause
	}
	a.count(a.blame(err))
	a.release()
	return err
}

// blame says how an attempt counts that broke.
func (a *attempt) blame(err error) outcome {
	x := a.x
	switch {
	case errors.Is(err, errClient), errors.Is(err, errCut):
		return wasCancelled
	case x.client.Err() == nil:
		return wentBad
	case x.expired():
		return wentBad // DEADLINE_EXCEEDED to the client
	}
	return wasCancelled
}

// expired reports whether the client's own deadline for a call is over.
func (x *stream) expired() bool {
	return x.timeout > 0 && time.Since(x.began) >= x.timeout-min(x.timeout/10, pastDeadline)
}

func (a *attempt) count(o outcome) {
	a.once.Do(func() {
		switch {
		case o == wasCancelled:
			a.k.cancelled.Add(1)
		case a.head.Load():
			a.k.answered(o == wentBad, a.latency)
		default:
			a.k.failed()
		}
	})
}

func (a *attempt) release() {
	if a.forget != nil {
		a.forget()
		a.forget = nil
		a.b.release()
	}
}

// sentBody is a request's body on its way to the service.
type sentBody struct {
	io.ReadCloser
	a *attempt
}

func (b *sentBody) Read(p []byte) (int, error) {
	a := b.a
	if a.clock == nil {
		return b.ReadCloser.Read(p)
	}
	// The client is late now, not the service: see pump.
	a.clock.Stop()
	late := time.AfterFunc(a.x.srv.opt.ClientBody, func() { a.x.hurry(reading) })
	n, err := b.ReadCloser.Read(p)
	late.Stop()
	if !a.head.Load() {
		a.clock.Reset(a.x.srv.opt.HeaderTimeout)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		a.x.cancel(errors.Join(errClient, err))
	}
	return n, err
}

// Close leaves the body open: it may be needed for another attempt.
func (b *sentBody) Close() error { return nil }

// takenBody is an answer's body on its way to the client.
type takenBody struct {
	io.ReadCloser
	a   *attempt
	res *http.Response
}

func (b *takenBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		if b.a.x.grpc {
			b.a.count(grpcOutcome(b.res))
		}
	default:
		if cause := context.Cause(b.res.Request.Context()); cause != nil {
			err = cause
		}
		b.a.count(b.a.blame(err))
	}
	return n, err
}

func (b *takenBody) Close() error {
	err := b.ReadCloser.Close()
	// When nothing was wrong with the body, it was the client that failed.
	o := wasCancelled
	if b.a.x.client.Err() != nil {
		o = b.a.blame(context.Canceled)
	}
	b.a.count(o)
	b.a.release()
	return err
}

// fail answers a stream in the proxy's own name.
func (x *stream) fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoRevision), errors.Is(err, errNotReady):
		x.refuse(w, 503, err.Error())
	case errors.Is(err, errUnreached):
		x.refuse(w, 502, err.Error())
	case errors.Is(err, errClient):
		x.refuse(w, 408, "the request's body did not come in time")
	case errors.Is(err, errTimeout), errors.Is(err, errDeadline), x.expired(): // services break off too what nobody waits for
		x.refuse(w, 504, "the service did not answer in time")
	default:
		x.refuse(w, 502, "the service did not answer")
	}
}

func (x *stream) refuse(w http.ResponseWriter, status int, why string) {
	if x.grpc {
		code := grpcUnavailable
		if status == 504 {
			code = grpcDeadlineExceeded
		}
		refuseGRPC(w, code, why)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "sluice: "+why+"\n")
}

// paced ends a stream whose client takes nothing for too long.
type paced struct {
	http.ResponseWriter
	t *time.Timer
	d time.Duration
}

func (p *paced) Write(b []byte) (int, error) {
	p.t.Reset(p.d)
	defer p.t.Stop()
	return p.ResponseWriter.Write(b)
}

// Flush writes too.
func (p *paced) FlushError() error {
	p.t.Reset(p.d)
	defer p.t.Stop()
	return http.NewResponseController(p.ResponseWriter).Flush()
}

func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// buffers are lent to bodies.
type buffers struct{ p sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.p.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, gather)
}

func (b *buffers) Put(p []byte) { b.p.Put(&p) }

var _ net.Listener = (*h2)(nil)
