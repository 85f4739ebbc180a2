package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The status codes of gRPC that tell of a failure of the service, as judge.md
// lists them, and the one of a call that was given up.
const (
	grpcCanceled         = 1
	grpcUnknown          = 2
	grpcDeadlineExceeded = 4
	grpcInternal         = 13
	grpcUnavailable      = 14
	grpcDataLoss         = 15
)

// isGRPC says whether a message of this Content-Type is gRPC's own framing, whose
// outcome is in the trailers. gRPC-Web's is not: it puts them into the body.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcStatus reads a grpc-status. What is none is UNKNOWN to a client.
func grpcStatus(s string) int {
	if len(s) == 0 || len(s) > 9 {
		return grpcUnknown
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return grpcUnknown
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return grpcUnknown
	}
	return n
}

// outcome is how an attempt counts.
type outcome uint8

const (
	wentWell outcome = iota
	wentBad
	wasCancelled
)

// grpcOutcome judges a complete answer to a gRPC request.
func grpcOutcome(res *http.Response) outcome {
	status, told := res.Header["Grpc-Status"] // an answer that is trailers only
	if t, ok := res.Trailer["Grpc-Status"]; ok {
		status, told = t, true
	}
	switch {
	case !told && res.StatusCode == http.StatusOK:
		return wentBad // it ended without an outcome
	case !told:
		return outcomeOf(res.StatusCode >= 500)
	}
	switch grpcStatus(strings.Join(status, ",")) {
	case grpcUnknown, grpcDeadlineExceeded, grpcInternal, grpcUnavailable, grpcDataLoss:
		return wentBad
	case grpcCanceled:
		return wasCancelled
	}
	return wentWell
}

func outcomeOf(bad bool) outcome {
	if bad {
		return wentBad
	}
	return wentWell
}

// maxGRPCTimeout is taken for all that is longer: nobody waits that long.
const maxGRPCTimeout = 1000 * time.Hour

// grpcTimeout reads a grpc-timeout: one to eight digits and a unit. 0 is none.
func grpcTimeout(s string) time.Duration {
	if len(s) < 2 || len(s) > 9 {
		return 0
	}
	unit := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}[s[len(s)-1]]
	if unit == 0 {
		return 0
	}
	var n time.Duration
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + time.Duration(c-'0')
	}
	if n == 0 {
		return time.Nanosecond // it is over already
	}
	if n > maxGRPCTimeout/unit {
		return maxGRPCTimeout
	}
	return n * unit
}

// refuseGRPC answers a gRPC request in the proxy's own name.
func refuseGRPC(w http.ResponseWriter, code int, why string) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", "sluice: "+why)
	w.WriteHeader(http.StatusOK)
}
