package store

import (
	"encoding/json"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// Work is what every row that wakes up carries. A worker leases a due row; each
// lease raises Epoch, and each write under a lease names it.
type Work struct {
	WakeAt     *time.Time // nil: asleep until somebody wakes it
	LeaseOwner string
	LeaseUntil time.Time `bun:",nullzero"`
	Epoch      int64
	Wakes      int64 // counts wake-ups; a save keeps those that its reader had not seen
}

// Run is one execution of a pipeline: a commit, or a release, on its way to an
// environment.
type Run struct {
	Project    string
	ID         string // a number, rising in its project
	Kind       string // run, promote, rollback
	Service    string
	Repository string
	Path       string // of the definition inside the repository
	Ref        string
	Commit     string
	To         string // last environment; empty: all
	Release    release.ID
	Phase      string
	Live       bool            // not ended
	Definition json.RawMessage // pipeline.Definition, once read
	State      json.RawMessage // run.State
	Actor      release.Actor
	Revision   int64 // rises with each change
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Work
}

// Rollout is one release taking over one environment. At most one is live for
// a service and environment.
type Rollout struct {
	Project     string
	ID          string // "o" and a number, rising in its project
	Run         string
	Service     string
	Environment string
	Release     release.ID
	Phase       string
	Live        bool
	Engine      int
	Plan        json.RawMessage // rollout.Plan, as compiled at the start
	State       json.RawMessage // rollout.State
	Judge       json.RawMessage // the analysis so far
	Candidate   json.RawMessage // wire.Revision
	Restore     json.RawMessage // wire.Revision, null on a first release
	SetID       *string
	Wave        *int
	Revision    int64
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Work
}

// Environment is what one service runs in one environment when no rollout is
// live. It wakes up to retire the previous release.
type Environment struct {
	release.Key
	Current   json.RawMessage // wire.Revision, null before the first release
	Previous  json.RawMessage // wire.Revision kept warm or on disk, null if none
	RetireAt  *time.Time      // previous stops then; nil: it does not run
	Settings  json.RawMessage // listen, hosts, sticky of the target
	Revision  int64
	UpdatedAt time.Time
	Work
}

// Event is one entry of a rollout's event log, from which its state is rebuilt.
type Event struct {
	Project string
	Rollout string
	Seq     int64
	At      time.Time
	Data    json.RawMessage
}

// Effect is a promised change to a target, written with the state that wants it.
type Effect struct {
	Project    string
	Rollout    string // or "env:" and the key, for what an environment row wants
	Generation int64  // rises with each commit, over all of the database
	Kind       string
	Data       json.RawMessage
	CreatedAt  time.Time
	DoneAt     *time.Time
	Outcome    string
}

// Feed is one line of what happened, for those who watch live.
type Feed struct {
	Seq         int64 // rising over the database; the SSE event id
	Project     string
	Run         string
	Service     string
	Environment string
	Kind        string
	At          time.Time
	Data        json.RawMessage
}

// Release is a manifest that was made.
type Release struct {
	Project   string
	ID        release.ID
	Service   string
	Commit    string
	Run       string
	Manifest  []byte // canonical bytes
	CreatedAt time.Time
}

// Build is what one set of inputs was built into, once.
type Build struct {
	Project   string
	Service   string
	Key       release.Digest // of source tree, build section and builder
	Commit    string
	Run       string
	Artifacts json.RawMessage // []release.Artifact
	CreatedAt time.Time
}

// Promotion is a release that entered an environment.
type Promotion struct {
	release.Key
	Release  release.ID
	Run      string
	Envelope []byte // DSSE, verified by agents
	At       time.Time
}

// Packet is what approvers decide on.
type Packet struct {
	Project     string
	Run         string
	Environment string
	Digest      release.Digest
	Body        []byte // canonical JSON
	CreatedAt   time.Time
	ExpiresAt   time.Time
}

// Decision is one person's answer to a packet.
type Decision struct {
	Project     string
	Run         string
	Environment string
	Packet      release.Digest
	Actor       release.Actor
	Decision    string // approve, reject
	Comment     string
	At          time.Time
}

// Quarantine keeps a rolled-back release out until a person lifts it.
type Quarantine struct {
	Project      string
	Service      string
	Release      release.ID
	Reason       string
	At           time.Time
	LiftedAt     *time.Time
	LiftedBy     release.Actor
	LiftedReason string
}

// Leaf is one signed statement of a project's log.
type Leaf struct {
	Project       string
	ID            string // unique; the writer's idempotency key
	Number        int64  // from 1, in the order of commits, which the sequencer follows
	Index         *int64 `bun:"leaf_index"` // nil until the sequencer gave it one
	Envelope      []byte // canonical DSSE JSON: what the leaf hash covers
	PredicateType string
	Subject       release.Digest // the release, or the object changed
	Run           string
	Environment   string
	At            time.Time
}

// Desired is what hosts shall run of a key.
type Desired struct {
	release.Key
	Generation int64
	Document   json.RawMessage // wire.Desired
	UpdatedAt  time.Time
}

// Observed is the last report of one host.
type Observed struct {
	Host     string
	Boot     string
	Sequence uint64
	At       time.Time       // when it arrived, by the database's clock
	Report   json.RawMessage // wire.Observed without scrapes
}

// Answer is what a command with an Idempotency-Key was answered.
type Answer struct {
	Project string
	Key     string
	Request release.Digest
	Status  int
	Body    []byte
	At      time.Time
}
