package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	rpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
)

// calls is a gRPC service that does as it is asked. Its name is in each answer.
type calls struct {
	rpc.UnimplementedTestServiceServer
	name string
	open atomic.Int64
	hang chan struct{} // if set, what is asked to wait waits for it, deaf to its client
}

func (c *calls) payload(s string) *rpc.Payload { return &rpc.Payload{Body: []byte(c.name + s)} }

func (c *calls) UnaryCall(ctx context.Context, q *rpc.SimpleRequest) (*rpc.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if md.Get("x-forwarded-for") == nil {
		return nil, status.Error(codes.Internal, "no X-Forwarded-For")
	}
	if c.hang != nil {
		<-c.hang
	}
	if s := q.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("head", "h", "mark", strings.Join(md.Get("sluice-synthetic"), ",")))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("tail", "t"))
	return &rpc.SimpleResponse{Payload: c.payload(" " + string(q.GetPayload().GetBody()))}, nil
}

func (c *calls) StreamingOutputCall(q *rpc.StreamingOutputCallRequest, s grpc.ServerStreamingServer[rpc.StreamingOutputCallResponse]) error {
	for range q.GetResponseParameters() {
		if err := s.Send(&rpc.StreamingOutputCallResponse{Payload: c.payload("")}); err != nil {
			return err
		}
	}
	if st := q.GetResponseStatus(); st != nil {
		return status.Error(codes.Code(st.Code), st.Message)
	}
	return nil
}

func (c *calls) FullDuplexCall(s grpc.BidiStreamingServer[rpc.StreamingOutputCallRequest, rpc.StreamingOutputCallResponse]) error {
	c.open.Add(1)
	defer c.open.Add(-1)
	for {
		q, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&rpc.StreamingOutputCallResponse{Payload: c.payload(" " + string(q.GetPayload().GetBody()))}); err != nil {
			return err
		}
	}
}

func startCalls(t testing.TB, c *calls) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	rpc.RegisterTestServiceServer(s, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func dialCalls(t testing.TB, addr string) rpc.TestServiceClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return rpc.NewTestServiceClient(cc)
}

func TestGRPCPassesThrough(t *testing.T) {
	s, addr := start(t, proxy.Options{Name: "grpc"})
	s.Set(only(startCalls(t, &calls{name: "stable"})))
	c := dialCalls(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), machinetest.Patience)
	defer cancel()

	var head, tail metadata.MD
	big := strings.Repeat("x", 300<<10) // more than a window
	res, err := c.UnaryCall(ctx, &rpc.SimpleRequest{Payload: &rpc.Payload{Body: []byte(big)}}, grpc.Header(&head), grpc.Trailer(&tail))
	if err != nil {
		t.Fatal(err)
	}
	if string(res.GetPayload().GetBody()) != "stable "+big || len(head.Get("head")) != 1 || len(tail.Get("tail")) != 1 {
		t.Errorf("head %v, tail %v, %d bytes", head, tail, len(res.GetPayload().GetBody()))
	}
	out, err := c.StreamingOutputCall(ctx, &rpc.StreamingOutputCallRequest{ResponseParameters: make([]*rpc.ResponseParameters, 100)})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		_, err := out.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 100 {
		t.Errorf("%d of 100 messages came", n)
	}
	// Each message is answered before the next one is sent: nothing is held back.
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", "three"} {
		if err := both.Send(&rpc.StreamingOutputCallRequest{Payload: &rpc.Payload{Body: []byte(word)}}); err != nil {
			t.Fatal(err)
		}
		m, err := both.Recv()
		if err != nil || string(m.GetPayload().GetBody()) != "stable "+word {
			t.Fatalf("%v, %v", m, err)
		}
	}
	want(t, s, stable, 2, 0, 0) // a call counts when its outcome is known
	if err := both.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
	want(t, s, stable, 3, 0, 0)
	var timed uint64
	for _, n := range counts(t, s, stable).Latency {
		timed += n
	}
	if timed != 3 {
		t.Errorf("%d of 3 latencies", timed)
	}
}

// Of gRPC the trailers say how a call went, in whichever form they come.
func TestGRPCIsCountedByItsTrailer(t *testing.T) {
	bad := map[codes.Code]bool{codes.Unknown: true, codes.DeadlineExceeded: true, codes.Internal: true, codes.Unavailable: true, codes.DataLoss: true}
	at := startCalls(t, &calls{name: "stable"})
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		for _, messages := range []int{0, 2} { // trailers only; after messages
			s, addr := start(t, proxy.Options{Name: "codes"})
			s.Set(only(at))
			c := dialCalls(t, addr)
			out, err := c.StreamingOutputCall(t.Context(), &rpc.StreamingOutputCallRequest{
				ResponseParameters: make([]*rpc.ResponseParameters, messages),
				ResponseStatus:     &rpc.EchoStatus{Code: int32(code), Message: "as asked"},
			})
			for err == nil {
				_, err = out.Recv()
			}
			if status.Code(err) != code || status.Convert(err).Message() != "as asked" {
				t.Errorf("%v after %d messages came as %v", code, messages, err)
			}
			switch {
			case code == codes.Canceled:
				want(t, s, stable, 0, 0, 1)
			case bad[code]:
				want(t, s, stable, 1, 1, 0)
			default:
				want(t, s, stable, 1, 0, 0)
			}
		}
	}
}

func TestGRPCThatEndsEarly(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	c := &calls{name: "stable"}
	quick, deaf := startCalls(t, c), startCalls(t, &calls{name: "deaf", hang: hang})
	t.Run("the client's deadline", func(t *testing.T) {
		s, addr := start(t, proxy.Options{Name: "deadline"})
		s.Set(only(deaf))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // it has to reach the service before
		defer cancel()
		_, err := dialCalls(t, addr).UnaryCall(ctx, &rpc.SimpleRequest{})
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v", err)
		}
		want(t, s, stable, 1, 1, 0)
	})
	t.Run("a client that leaves", func(t *testing.T) {
		s, addr := start(t, proxy.Options{Name: "leaves"})
		s.Set(only(quick))
		ctx, cancel := context.WithCancel(t.Context())
		both, err := dialCalls(t, addr).FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := both.Send(&rpc.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
		want(t, s, stable, 0, 0, 1)
		machinetest.Until(t, "the service saw it too", func() bool { return c.open.Load() == 0 })
	})
	t.Run("a service that is not there", func(t *testing.T) {
		s, addr := start(t, proxy.Options{Name: "gone"})
		s.Set(only(porttest.Refused(t)))
		_, err := dialCalls(t, addr).UnaryCall(t.Context(), &rpc.SimpleRequest{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "sluice: ") {
			t.Errorf("%v", err)
		}
		want(t, s, stable, 1, 1, 0)
	})
	t.Run("a second instance", func(t *testing.T) {
		s, addr := start(t, proxy.Options{Name: "second"})
		s.Set(only(porttest.Refused(t), quick))
		for range 4 {
			if _, err := dialCalls(t, addr).UnaryCall(t.Context(), &rpc.SimpleRequest{Payload: &rpc.Payload{Body: []byte("kept")}}); err != nil {
				t.Error(err)
			}
		}
		c := counts(t, s, stable)
		if c.Requests-c.Bad != 4 || c.Bad == 0 {
			t.Errorf("%+v", c)
		}
	})
	t.Run("a service that breaks off", func(t *testing.T) {
		s, addr := start(t, proxy.Options{Name: "breaks"})
		s.Set(only(service(t, says("no gRPC at all"))))
		_, err := dialCalls(t, addr).UnaryCall(t.Context(), &rpc.SimpleRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
		want(t, s, stable, 1, 1, 0)
	})
	t.Run("no revision", func(t *testing.T) {
		_, addr := start(t, proxy.Options{Name: "none"})
		_, err := dialCalls(t, addr).UnaryCall(t.Context(), &rpc.SimpleRequest{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no revision") {
			t.Errorf("%v", err)
		}
	})
}

// One connection, many calls: each is routed by the table of its own beginning.
func TestWeightsApplyToStreamsOfOneConnection(t *testing.T) {
	a, b := startCalls(t, &calls{name: "stable"}), startCalls(t, &calls{name: "candidate"})
	s, addr := start(t, proxy.Options{Name: "streams", Token: "secret"})
	r := split(2500, a, b)
	r.Sticky.Header = "X-User"
	s.Set(r)
	c := dialCalls(t, addr)
	ask := func(pairs ...string) string {
		res, err := c.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), pairs...), &rpc.SimpleRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(res.GetPayload().GetBody()))
	}
	const n = 2000
	k := 0
	for range n {
		if ask() == "candidate" {
			k++
		}
	}
	plausible(t, k, n, 0.25)
	for _, user := range []string{"ann", "bob", "eve"} {
		first := ask("x-user", user)
		for range 20 {
			if ask("x-user", user) != first {
				t.Errorf("%s moved", user)
			}
		}
	}
	before := counts(t, s, candidate).Requests
	r.Revisions[0].Weight, r.Revisions[1].Weight = wire.FullWeight, 0
	s.Set(r)
	for range 200 {
		if ask() != "stable" {
			t.Fatal("a call went to the candidate after its weight was 0")
		}
	}
	if now := counts(t, s, candidate).Requests; now != before {
		t.Errorf("%d more were counted", now-before)
	}
	users := counts(t, s, stable).Requests
	ask("sluice-synthetic", "secret")
	if got := counts(t, s, stable).Requests; got != users || sum(s.Synthetic(stable)).Requests != 1 {
		t.Errorf("a call of our own was counted with users'")
	}
}

// A call may last forever; its revision does not.
func TestCallsEndWithTheirRevision(t *testing.T) {
	for _, way := range []string{"instance", "weight"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			b := startCalls(t, &calls{name: "candidate"})
			s, addr := start(t, proxy.Options{Name: "end"})
			s.Set(only(b))
			both, err := dialCalls(t, addr).FullDuplexCall(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = both.Send(&rpc.StreamingOutputCallRequest{})
			if _, err := both.Recv(); err != nil {
				t.Fatal(err)
			}
			next := only(startCalls(t, &calls{name: "stable"}))
			next.Revisions[0].Release = candidate
			if way == "weight" {
				old := only(b).Revisions[0]
				old.Weight, old.DrainIn = 0, 5*time.Second // for as long as what follows takes on any machine
				next.Revisions = append(next.Revisions, old)
			}
			s.Set(next)
			// It goes on for as long as it may.
			_ = both.Send(&rpc.StreamingOutputCallRequest{})
			if _, err := both.Recv(); err != nil {
				t.Fatalf("it was cut at once: %v", err)
			}
			if way == "instance" {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				if n := s.Drained(ctx, at(b)[0]); n != 1 {
					t.Errorf("%d calls were open", n)
				}
			}
			if _, err := both.Recv(); status.Code(err) == codes.OK {
				t.Errorf("it ended with %v", err)
			}
			want(t, s, stable, 0, 0, 1) // that is nobody's failure
		})
	}
}
