package demo

import (
	"errors"
	"fmt"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Document is the story in numbers: what `sluice demo --json` prints.
type Document struct {
	Releases        []Release `json:"releases"`
	ClientRequests  int64     `json:"clientRequests"`  // that customers sent
	ProxyRequests   int64     `json:"proxyRequests"`   // that the proxy counted
	DroppedRequests int64     `json:"droppedRequests"` // that nobody answered
	Evidence        Evidence  `json:"evidence"`
}

// Release is one version's part. What there was none of is null.
type Release struct {
	Version          string          `json:"version"`
	Release          release.ID      `json:"release"`
	Digest           release.Digest  `json:"digest"` // of its artifact
	State            run.Outcome     `json:"state"`
	Verdict          verdict.Verdict `json:"verdict"`          // in production; "": nothing to compare with
	RequestsToDetect *int64          `json:"requestsToDetect"` // canary requests from first exposure to the fail verdict
	DetectSeconds    *float64        `json:"detectSeconds"`    // from first exposure to the fail verdict
	RollbackMillis   *int64          `json:"rollbackMillis"`   // verdict committed to weight read back as 0
	BadResponses     int64           `json:"badResponses"`     // that customers got
	GoodResponses    int64           `json:"goodResponses"`
}

// Evidence is what the verification of the exported bundle came to.
type Evidence struct {
	Statements int  `json:"statements"`
	Verified   bool `json:"verified"` // all of them, and the log that holds them
}

// Missing lists what did not happen that the demo is there to show; nothing if
// all of it did.
func (d Document) Missing() []string {
	var out []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	if len(d.Releases) != 3 {
		return []string{fmt.Sprintf("%d of 3 versions were shipped", len(d.Releases))}
	}
	v1, v2, v3 := d.Releases[0], d.Releases[1], d.Releases[2]
	want(v1.State == run.Succeeded, "v1 did not succeed: it is %s", v1.State)
	want(v2.State == run.Succeeded && v2.Verdict == verdict.Pass, "v2 did not succeed on evidence: it is %s with verdict %q", v2.State, v2.Verdict)
	want(v3.State == run.RolledBack && v3.Verdict == verdict.Fail, "v3 was not taken back on evidence: it is %s with verdict %q", v3.State, v3.Verdict)
	want(d.DroppedRequests == 0, "%s requests were dropped", number(d.DroppedRequests))
	want(d.ClientRequests == d.ProxyRequests, "customers sent %s requests, and the proxy counted %s", number(d.ClientRequests), number(d.ProxyRequests))
	want(d.Evidence.Verified, "the evidence does not verify")
	return out
}

// ErrIncomplete reports a story that was told to its end, but in which something
// did not happen.
var ErrIncomplete = errors.New("the demo did not go as it should")
