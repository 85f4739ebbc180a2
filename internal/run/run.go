package run

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Phase is where a run stands.
type Phase string

// The phases.
const (
	Queued    Phase = "queued"
	Building  Phase = "building"
	Promoting Phase = "promoting"
	Ended     Phase = "ended"
)

// Kinds of runs.
const (
	KindRun      = "run"      // builds a commit and promotes it
	KindPromote  = "promote"  // promotes a release that exists
	KindRollback = "rollback" // brings back the previous release
	KindRehearse = "rehearse" // goes back to the previous release and forward again, to see how long it takes
)

// Outcome is the state that a user reads.
type Outcome string

// The outcomes. The first three are not final.
const (
	Running        Outcome = "running"
	Waiting        Outcome = "waiting"
	RollingBack    Outcome = "rolling-back"
	Succeeded      Outcome = "succeeded"
	Failed         Outcome = "failed"
	RolledBack     Outcome = "rolled-back"
	RollbackFailed Outcome = "rollback-failed"
	Cancelled      Outcome = "cancelled"
	Superseded     Outcome = "superseded"
)

// Step is one build step as it went.
type Step struct {
	Name    string         `json:"name"`
	Kind    string         `json:"kind"`
	State   string         `json:"state"` // pending, running, succeeded, failed, timed-out, cancelled, skipped, reused
	Exit    int            `json:"exit,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Started *time.Time     `json:"started,omitempty"`
	Ended   *time.Time     `json:"ended,omitempty"`
	Log     release.Digest `json:"log,omitempty"` // blob, when it ended
	Tests   *Tests         `json:"tests,omitempty"`
}

// Tests sums up a step's reports.
type Tests struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

// Environment is one environment of the run.
type Environment struct {
	Name       string          `json:"name"`
	State      Outcome         `json:"state,omitempty"` // "" while pending
	Previous   release.ID      `json:"previous,omitempty"`
	Rollout    string          `json:"rollout,omitempty"`
	Strategy   string          `json:"strategy,omitempty"`
	Gates      []gate.Decision `json:"gates,omitempty"`
	Packet     release.Digest  `json:"packet,omitempty"` // the one that waits, or was approved
	Approved   bool            `json:"approved,omitempty"`
	WaitingFor string          `json:"waitingFor,omitempty"`
	Waited     time.Duration   `json:"waited,omitempty"` // for approval, accumulated
	Reason     string          `json:"reason,omitempty"`
	Verdict    verdict.Verdict `json:"verdict,omitempty"`
	Queued     bool            `json:"queued,omitempty"` // it waits for its turn: others are before it
	Legs       []Leg           `json:"legs,omitempty"`   // of a rehearsal, those that are done
}

// Leg is one way of a rehearsal: back, then forward again.
type Leg struct {
	Rollout string     `json:"rollout"`
	To      release.ID `json:"to"`
	Way     string     `json:"way"` // warm, cold
	Millis  int64      `json:"millis"`
}

// State is everything that a run remembers.
type State struct {
	V            int                `json:"v"`
	Phase        Phase              `json:"phase"`
	Outcome      Outcome            `json:"outcome"`
	Reason       string             `json:"reason,omitempty"`
	Steps        []Step             `json:"steps,omitempty"`
	Reused       string             `json:"reused,omitempty"` // the run whose build this is
	BuildTries   int                `json:"buildTries,omitempty"`
	Artifacts    []release.Artifact `json:"artifacts,omitempty"`
	Release      release.ID         `json:"release,omitempty"`
	Environments []Environment      `json:"environments"`
	Cancel       string             `json:"cancel,omitempty"` // a person's wish, with the reason
	CancelBy     release.Actor      `json:"cancelBy,omitempty"`
	TickedAt     time.Time          `json:"tickedAt,omitzero"`
	Planned      time.Duration      `json:"planned,omitempty"` // from then until the next turn
}

// Version is of State's encoding.
const Version = 1

// Decode reads a stored state.
func Decode(b []byte) (State, error) {
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("couldn't read the run's state: %w", err)
	}
	if s.V > Version {
		return State{}, fmt.Errorf("the run's state has version %d, this build knows up to %d: use the newer sluice", s.V, Version)
	}
	return s, nil
}

// Action is what a run does next.
type Action string

// The actions.
const (
	ActBuild   Action = "build"
	ActPromote Action = "promote" // gates, approval, promotion of Index
	ActAwait   Action = "await"   // the rollout of Index
	ActNothing Action = "nothing"
	ActEnd     Action = "end"
)

// Next tells what s does next, and for which environment.
func Next(s State) (Action, int) {
	switch s.Phase {
	case Queued, Building:
		return ActBuild, -1
	case Ended:
		return ActNothing, -1
	}
	for i, e := range s.Environments {
		switch e.State {
		case Succeeded:
			continue
		case "", Waiting:
			return ActPromote, i
		case Running, RollingBack:
			return ActAwait, i
		default:
			return ActEnd, i
		}
	}
	return ActEnd, -1
}

// End closes the run: its outcome is that of the first environment that did not
// succeed, or success.
func (s *State) End() {
	s.Phase, s.Outcome = Ended, Succeeded
	for _, e := range s.Environments {
		if e.State != Succeeded {
			s.Outcome, s.Reason = e.State, e.Name+": "+e.Reason
			return
		}
	}
}

// Fail closes the run before anything was exposed.
func (s *State) Fail(o Outcome, reason string) {
	s.Phase, s.Outcome, s.Reason = Ended, o, reason
}

// ExitCode is what the CLI ends with for an outcome (interface.md).
func ExitCode(o Outcome) int {
	switch o {
	case Succeeded:
		return 0
	case RolledBack:
		return 3
	case Waiting, Running:
		return 4
	case RollbackFailed, RollingBack:
		return 5
	case Cancelled, Superseded:
		return 6
	}
	return 1
}
