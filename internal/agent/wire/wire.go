// Package wire is the protocol between the control plane and the agents: what a
// host shall run, and what it says that it runs.
//
// The agent dials out. It reads GET /agent/v1/desired?host=H&after=GENERATION,
// a stream of one JSON [Desired] per line (an empty line is a keep-alive), and
// sends POST /agent/v1/observed with one [Observed]. Both carry [Protocol]; the
// server speaks this one and the one before. A required feature that the agent
// does not know is refused by name, never guessed.
//
// Generations rise with every commit of a desired state, over all services of a
// control plane. The agent keeps the highest applied one for each
// project/service/environment on disk and refuses a lower one.
package wire

import (
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// Protocol is the version that this build speaks.
const Protocol = 1

// FullWeight is 100 % of traffic: weights are in basis points (1/100 %).
const FullWeight = 10000

// MaxGeneration is the highest that there is: every reader of JSON has it exactly. A
// report that names one up to MaxReached is believed, and the next one given is above
// it. There is room above for all that will ever be given after a report that lied, and
// those who apply these may say so.
const (
	MaxGeneration = 1 << 53
	MaxReached    = MaxGeneration / 2
)

// Buckets is the number of hash buckets that requests are counted in, so that
// any A/A split of a revision exists afterwards.
const Buckets = 16

// Features that a desired state may require.
const (
	FeatureSynthetic = "synthetic" // Desired.Synthetic
	FeatureShadow    = "shadow"    // Revision.Shadow

	FeatureShares  = "shares"  // Revision.Shares
	FeatureAlso    = "also"    // Desired.Also
	FeaturePreview = "preview" // Desired.Preview
	FeatureWorker  = "worker"  // no Listen: processes that nothing is routed to; a weight is their share of the work
)

// Desired is what hosts shall run of one service in one environment.
type Desired struct {
	Protocol   int      `json:"protocol"`
	Requires   []string `json:"requires,omitempty"` // features that the agent must know
	Generation int64    `json:"generation"`
	release.Key
	Hosts  []string `json:"hosts"`
	Listen string   `json:"listen"` // host:port, or :port for the agent's own address; empty with feature "worker": no traffic
	// Also are more addresses with the same traffic as Listen: where it is to move
	// when its release was judged good, which must be known to be free before.
	// Feature "also"
	Also []string `json:"also,omitempty"`
	// Preview is a second address, where everything goes to the candidate alone,
	// also at weight 0. Its requests are in no count. Feature "preview"
	Preview   string     `json:"preview,omitempty"`
	Synthetic *Synthetic `json:"synthetic,omitempty"` // made by the agent as long as it is here. Feature "synthetic"
	Sticky    Sticky     `json:"sticky,omitzero"`
	Revisions []Revision `json:"revisions"`         // empty: stop, answer 503; see Removed
	Removed   bool       `json:"removed,omitempty"` // close the listener too
}

// Synthetic is traffic that the agent makes itself, spread over the revisions by
// their weights and counted in RevisionObserved.Synthetic.
type Synthetic struct {
	Rate  float64  `json:"rate"`  // requests per second on each host
	Paths []string `json:"paths"` // in turn
}

// Sticky says what a user is recognised by. Empty: each request is on its own.
type Sticky struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"` // set by the proxy when the client has none
}

// Revision is one release that hosts shall run, and its share of traffic.
// The weights of a Desired's revisions sum to FullWeight, or to 0 (answer 503).
type Revision struct {
	Release   release.ID `json:"release"`
	Manifest  []byte     `json:"manifest"`  // canonical bytes; their digest is Release
	Promotion []byte     `json:"promotion"` // DSSE envelope that says: promoted into this environment
	Artifact  string     `json:"artifact"`  // OCI reference project/service@sha256:…
	Run       string     `json:"run"`       // for sh -c; $PORT is set
	Instances int        `json:"instances"`
	Weight    int        `json:"weight"` // basis points
	Candidate bool       `json:"candidate,omitempty"`
	Shadow    int        `json:"shadow,omitempty"` // basis points of requests that are copied to it, whose answers nobody sees. Feature "shadow"
	Health    Health     `json:"health"`
	Metrics   string     `json:"metrics,omitempty"` // path to scrape; empty: none

	// Shares are by host: a host that is named takes these in place of Instances
	// and Weight. Feature "shares".
	Shares map[string]Share `json:"shares,omitempty"`

	Env     map[string]string            `json:"env,omitempty"`
	Secrets map[string]release.SecretRef `json:"secrets,omitempty"` // resolved on the host
}

// Share is what one host runs of a revision, where hosts differ (in the middle of
// a rolling replacement).
type Share struct {
	Instances int `json:"instances"`
	Weight    int `json:"weight"` // basis points
}

// Health is how an instance is asked whether it is well.
type Health struct {
	HTTP     string        `json:"http,omitempty"` // path; empty: a TCP connection suffices
	Timeout  time.Duration `json:"timeout"`        // of one question
	Interval time.Duration `json:"interval"`
	Healthy  int           `json:"healthy"` // good answers in a row to be ready
	Failing  int           `json:"failing"` // bad answers in a row to be unready
	StartIn  time.Duration `json:"startIn"` // ready within this, or the start failed
	DrainIn  time.Duration `json:"drainIn"` // open requests get this long before a stop
}

// Phase is where a revision stands on a host.
type Phase string

// Phases of a revision.
const (
	Pulling  Phase = "pulling"  // fetching, verifying, unpacking
	Starting Phase = "starting" // not all instances are ready yet
	Ready    Phase = "ready"    // all instances are ready
	Failed   Phase = "failed"   // could not be verified or did not start; Reason says why
	Stopping Phase = "stopping" // draining
)

// Observed is what one host says of itself. Counters are cumulative since Boot.
type Observed struct {
	Protocol int       `json:"protocol"`
	Agent    string    `json:"agent"` // version of the agent's build
	Host     string    `json:"host"`
	Boot     string    `json:"boot"`     // changes when the agent's counters restart
	Sequence uint64    `json:"sequence"` // rises with each report of a boot
	At       time.Time `json:"at"`       // the host's clock, for people only
	Services []Service `json:"services"`
	// Kept are the releases whose verified files the host has: it can start them
	// without registry and network.
	Kept    []release.ID `json:"kept,omitempty"`
	Scrapes []Scrape     `json:"scrapes,omitempty"`
	// Isolation of services from the agent's files: "namespaces", or "none: " and
	// why. Agents before this field say nothing, and isolate nothing.
	Isolation string `json:"isolation,omitempty"`
}

// Service is what a host runs of one service in one environment.
type Service struct {
	release.Key
	Generation int64  `json:"generation"`        // the last one applied
	Listening  bool   `json:"listening"`         // where it is wanted to; a worker always
	Address    string `json:"address,omitempty"` // host:port where it listens, maybe an earlier one
	Preview    string `json:"preview,omitempty"` // host:port where the candidate alone answers
	Reason     string `json:"reason,omitempty"`  // why not, or why a generation was refused
	// Refused is the server's: why Address or Preview, which it took out, can't be the
	// host's. Agents leave it empty.
	Refused   string             `json:"refused,omitempty"`
	Revisions []RevisionObserved `json:"revisions"`
	Total     Total              `json:"total"` // of all revisions since boot, also of those that are gone
}

// Total counts attempts.
type Total struct {
	Requests  uint64 `json:"requests"`
	Bad       uint64 `json:"bad"`
	Cancelled uint64 `json:"cancelled"` // in neither of the others
}

// Plus adds two totals up.
func (t Total) Plus(o Total) Total {
	return Total{Requests: t.Requests + o.Requests, Bad: t.Bad + o.Bad, Cancelled: t.Cancelled + o.Cancelled}
}

// RevisionObserved is one revision as it runs.
type RevisionObserved struct {
	Release   release.ID `json:"release"`
	Phase     Phase      `json:"phase"`
	Reason    string     `json:"reason,omitempty"`
	Weight    int        `json:"weight"`           // basis points that the router applies now
	Wanted    bool       `json:"wanted,omitempty"` // by the generation that was applied; what is not goes once others can serve
	Ready     int        `json:"ready"`            // instances
	Instances []Instance `json:"instances"`
	Counters  []Counters `json:"counters"`            // one per bucket that had requests
	Shadow    []Counters `json:"shadow,omitempty"`    // copied requests, in no other count
	Synthetic []Counters `json:"synthetic,omitempty"` // requests that Sluice made itself, in no other count

	ShadowDropped uint64 `json:"shadowDropped,omitempty"` // copies that were not made: too many were open, or none was ready
}

// Instance is one process of a revision.
type Instance struct {
	ID       string `json:"id"`
	PID      int    `json:"pid"`
	Port     int    `json:"port"`
	Ready    bool   `json:"ready"`
	Restarts int    `json:"restarts"`
	LastExit string `json:"lastExit,omitempty"`
	LogTail  string `json:"logTail,omitempty"` // last lines, only while not ready
}

// Counters are cumulative counts of attempts in one hash bucket. Bad is as
// judge.md's http-errors says; cancelled attempts are in neither count.
type Counters struct {
	Bucket    int            `json:"bucket"`
	Requests  uint64         `json:"requests"`
	Bad       uint64         `json:"bad"`
	Cancelled uint64         `json:"cancelled,omitempty"`
	Latency   map[int]uint64 `json:"latency,omitempty"` // see LatencyIndex
}

// Scrape is one answer of an instance's metrics endpoint.
type Scrape struct {
	release.Key
	Release  release.ID `json:"release"`
	Instance string     `json:"instance"`
	At       time.Time  `json:"at"`
	Type     string     `json:"type"` // Content-Type
	Body     []byte     `json:"body"` // Prometheus exposition, at most 1 MiB

	Error string `json:"error,omitempty"` // the instance did not answer; there is no body
}
