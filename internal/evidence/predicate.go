package evidence

import (
	"fmt"
	"math"
	"slices"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Types of Sluice's own predicates. docs/evidence.md tells each field.
const (
	TypeRelease      = "https://sluice.dev/release/v1"
	TypeGateDecision = "https://sluice.dev/gate-decision/v1"
	TypeApproval     = "https://sluice.dev/approval/v1"
	TypePromotion    = "https://sluice.dev/promotion/v1"
	TypeRolloutStep  = "https://sluice.dev/rollout-step/v1"
	TypeVerdict      = "https://sluice.dev/verdict/v1"
	TypeRollback     = "https://sluice.dev/rollback/v1"
	TypeQuarantine   = "https://sluice.dev/quarantine/v1"
	TypeRecovery     = "https://sluice.dev/recovery/v1"
	TypeRedaction    = "https://sluice.dev/redaction/v1"
	TypeOverride     = "https://sluice.dev/override/v1"
	TypeRun          = "https://sluice.dev/run/v1"
	TypeRehearsal    = "https://sluice.dev/rehearsal/v1"
)

// ownPrefix starts the types of Sluice's own predicates.
const ownPrefix = "https://sluice.dev/"

// maxReason bounds a sentence in a predicate, in bytes.
const maxReason = 2048

// Event is what each of Sluice's own predicates says. Nothing that a person
// typed, and no name of a person, stands in a predicate: those are payloads.
type Event struct {
	At          Stamp        `json:"at"`
	Actor       ActorID      `json:"actor"`
	Run         string       `json:"run,omitempty"`
	Environment string       `json:"environment,omitempty"`
	Payloads    []Commitment `json:"payloads,omitempty"`
}

func (e Event) check() error {
	if _, err := e.At.Time(); err != nil {
		return err
	}
	if err := e.Actor.check(); err != nil {
		return err
	}
	return checkPayloads(e.Payloads)
}

// in checks an event that happens in an environment.
func (e Event) in() error {
	if e.Environment == "" {
		return fmt.Errorf("%w: no environment", ErrInvalid)
	}
	return e.check()
}

func oneOf(field, got string, want ...string) error {
	if !slices.Contains(want, got) {
		return fmt.Errorf("%w: %s is %.80q, not one of %q", ErrInvalid, field, got, want)
	}
	return nil
}

func checkReason(s string) error {
	if len(s) > maxReason {
		return fmt.Errorf("%w: reason has %d bytes, more than %d: make it a payload", ErrInvalid, len(s), maxReason)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Finite returns f for a predicate, or nil where JSON has no such number.
func Finite(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return &f
}

// Release says that a release was made: its manifest is the subject.
type Release struct {
	Event
	Service    string         `json:"service"`
	Commit     string         `json:"commit"`
	Definition release.Digest `json:"definition"`
	Engine     int            `json:"engine"`
}

// PredicateType implements [Predicate].
func (Release) PredicateType() string { return TypeRelease }
func (p Release) check() error        { return p.Event.check() }

// Outcomes of a gate.
const (
	GatePass    = "pass"
	GateFail    = "fail"
	GateWaiting = "waiting"
)

// GateDecision says what one gate came to for an environment.
type GateDecision struct {
	Event
	Gate    string           `json:"gate"`
	Outcome string           `json:"outcome"` // GatePass, GateFail, GateWaiting
	Reason  string           `json:"reason,omitempty"`
	Policy  release.Digest   `json:"policy,omitempty"` // of the expression or bundle that decided
	Facts   []release.Digest `json:"facts,omitempty"`  // envelopes that it read
}

// PredicateType implements [Predicate].
func (GateDecision) PredicateType() string { return TypeGateDecision }
func (p GateDecision) check() error {
	return firstError(p.in(), oneOf("outcome", p.Outcome, GatePass, GateFail, GateWaiting), checkReason(p.Reason))
}

// Decisions of an approver.
const (
	Approved = "approved"
	Rejected = "rejected"
)

// Approval says what a person decided on a packet. The comment is a payload.
type Approval struct {
	Event
	Decision string         `json:"decision"` // Approved, Rejected
	Packet   release.Digest `json:"packet"`
}

// PredicateType implements [Predicate].
func (Approval) PredicateType() string { return TypeApproval }
func (p Approval) check() error {
	_, err := release.ParseDigest(string(p.Packet))
	return firstError(p.in(), oneOf("decision", p.Decision, Approved, Rejected), err)
}

// Promotion lets a release into an environment. It is signed by the promotion
// key, the only one that agents trust.
type Promotion struct {
	Event
	Project   string           `json:"project"`
	Service   string           `json:"service"`
	Release   release.ID       `json:"release"`
	Previous  release.ID       `json:"previous,omitempty"`
	Packet    release.Digest   `json:"packet,omitempty"`
	Gates     []release.Digest `json:"gates,omitempty"`     // envelopes of the gate decisions
	Approvals []release.Digest `json:"approvals,omitempty"` // envelopes of the approvals
}

// PredicateType implements [Predicate].
func (Promotion) PredicateType() string { return TypePromotion }
func (p Promotion) check() error {
	_, err := release.ParseDigest(string(p.Release))
	return firstError(p.in(), err)
}

// Kinds of a rollout step.
const (
	StepPhase   = "phase"   // the rollout's phase changed
	StepStep    = "step"    // it took the next step of its plan
	StepWeight  = "weight"  // a weight was asked for, or read back (Observed)
	StepFlag    = "flag"    // paused, held, stuck was set or cleared
	StepCommand = "command" // a person's command was accepted
	StepDrift   = "drift"   // between rollouts hosts differ from the record, or no longer do

	StepCheck    = "check"    // a check was answered as wanted, or not
	StepExtended = "extended" // the bake was begun once more
	StepCapacity = "capacity" // the candidate shall run, or no longer
)

// RolloutStep says how a rollout changed.
type RolloutStep struct {
	Event
	Rollout  string `json:"rollout"`
	Revision int64  `json:"revision"` // of the rollout's state after the change
	Kind     string `json:"kind"`
	Step     int    `json:"step"` // index in the plan
	Phase    string `json:"phase,omitempty"`
	From     string `json:"from,omitempty"`    // value before
	To       string `json:"to,omitempty"`      // value after
	Weight   *int   `json:"weight,omitempty"`  // candidate's, basis points
	Flag     string `json:"flag,omitempty"`    // paused, held, stuck
	Set      bool   `json:"set,omitempty"`     // whether the flag was set or cleared
	Command  string `json:"command,omitempty"` // advance, pause, resume, abort, give-up, rollback
	Observed bool   `json:"observed,omitempty"`
	Host     string `json:"host,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// PredicateType implements [Predicate].
func (RolloutStep) PredicateType() string { return TypeRolloutStep }
func (p RolloutStep) check() error {
	return firstError(p.in(), oneOf("kind", p.Kind, StepPhase, StepStep, StepWeight, StepFlag, StepCommand, StepDrift, StepCheck, StepExtended, StepCapacity), checkReason(p.Reason))
}

// Verdict says what the judge came to at one step.
type Verdict struct {
	Event
	Rollout  string          `json:"rollout"`
	Revision int64           `json:"revision"`
	Step     int             `json:"step"`
	Verdict  verdict.Verdict `json:"verdict"`
	Reason   string          `json:"reason,omitempty"`
	Metrics  []MetricVerdict `json:"metrics,omitempty"`
}

// MetricVerdict is one metric's part of a verdict. A number that isn't finite is
// left out.
type MetricVerdict struct {
	Name          string          `json:"name"`
	Kind          string          `json:"kind"`
	Verdict       verdict.Verdict `json:"verdict"`
	Basis         string          `json:"basis,omitempty"`
	CanaryBad     int64           `json:"canaryBad"`
	CanaryTotal   int64           `json:"canaryTotal"`
	BaselineBad   int64           `json:"baselineBad"`
	BaselineTotal int64           `json:"baselineTotal"`
	Estimate      *float64        `json:"estimate,omitempty"`
	LogFail       *float64        `json:"logFail,omitempty"` // natural log of the evidence for fail
	LogPass       *float64        `json:"logPass,omitempty"`
	Bound         *float64        `json:"bound,omitempty"`
	Detectable    *float64        `json:"detectable,omitempty"`
	Sentence      string          `json:"sentence,omitempty"`
}

// PredicateType implements [Predicate].
func (Verdict) PredicateType() string { return TypeVerdict }
func (p Verdict) check() error {
	err := firstError(p.in(), checkReason(p.Reason), checkVerdict(p.Verdict))
	for _, m := range p.Metrics {
		err = firstError(err, checkReason(m.Sentence), checkVerdict(m.Verdict))
	}
	return err
}

func checkVerdict(v verdict.Verdict) error {
	return oneOf("verdict", string(v), string(verdict.Pass), string(verdict.Fail), string(verdict.Inconclusive), string(verdict.NoData))
}

// Stages of a rollback.
const (
	RollbackStarted   = "started"
	RollbackCompleted = "completed"
	RollbackStuck     = "stuck"
	RollbackGivenUp   = "given-up"
)

// Rollback says that a release is, or was, taken back.
type Rollback struct {
	Event
	Rollout string         `json:"rollout"`
	Stage   string         `json:"stage"`
	Cause   string         `json:"cause"`        // verdict, command, health, start, timeout, check, drift, …
	To      release.ID     `json:"to,omitempty"` // empty: no revision, answer 503
	Trigger release.Digest `json:"trigger,omitempty"`
	Weight  *int           `json:"weight,omitempty"` // candidate's as read back, basis points
	Millis  *int64         `json:"millis,omitempty"` // cause committed → weight read back as 0
	Reason  string         `json:"reason,omitempty"`
}

// PredicateType implements [Predicate].
func (Rollback) PredicateType() string { return TypeRollback }
func (p Rollback) check() error {
	return firstError(p.in(), oneOf("stage", p.Stage, RollbackStarted, RollbackCompleted, RollbackStuck, RollbackGivenUp), checkReason(p.Reason))
}

// Changes of a quarantine.
const (
	Quarantined = "quarantined"
	Lifted      = "lifted"
)

// Quarantine says that a release may not enter an environment, or may again.
type Quarantine struct {
	Event
	Change string `json:"change"` // Quarantined, Lifted
	Cause  string `json:"cause,omitempty"`
}

// PredicateType implements [Predicate].
func (Quarantine) PredicateType() string { return TypeQuarantine }
func (p Quarantine) check() error {
	return firstError(p.Event.check(), oneOf("change", p.Change, Quarantined, Lifted), checkReason(p.Cause))
}

// Recovery says that the state was restored from a backup, and what the log
// was last seen to be.
type Recovery struct {
	Event
	Witnessed Checkpoint `json:"witnessed"` // the last checkpoint that somebody else saw
	Restored  uint64     `json:"restored"`  // entries that the backup holds
	Lost      uint64     `json:"lost"`      // entries that were witnessed and are gone
}

// PredicateType implements [Predicate].
func (Recovery) PredicateType() string { return TypeRecovery }
func (p Recovery) check() error        { return p.Event.check() }

// Redaction says that a payload was erased, and under which rule. Its subject
// is the payload.
type Redaction struct {
	Event
	Rule    string         `json:"rule"`
	Payload release.Digest `json:"payload"`
}

// PredicateType implements [Predicate].
func (Redaction) PredicateType() string { return TypeRedaction }
func (p Redaction) check() error {
	if p.Rule == "" || len(p.Rule) > maxName {
		return fmt.Errorf("%w: a redaction names its rule", ErrInvalid)
	}
	_, err := release.ParseDigest(string(p.Payload))
	return firstError(p.Event.check(), err)
}

// Override says that a person went on against, or without, a verdict. The
// reason that they gave is a payload.
type Override struct {
	Event
	Rollout string          `json:"rollout,omitempty"`
	Step    int             `json:"step"`
	What    string          `json:"what"` // advance, gate, isolation, …
	Verdict verdict.Verdict `json:"verdict,omitempty"`
}

// PredicateType implements [Predicate].
func (Override) PredicateType() string { return TypeOverride }
func (p Override) check() error {
	if p.What == "" {
		return fmt.Errorf("%w: an override names what it overrides", ErrInvalid)
	}
	return p.Event.check()
}

// Ends of a run that exposed nobody.
const (
	RunCancelled  = "cancelled"
	RunSuperseded = "superseded"
)

// Run says that a run was ended before it exposed anybody. Its subject is the
// release, or the canonical JSON of the run where none was made yet. The reason
// that a person gave is a payload.
type Run struct {
	Event
	Change  string `json:"change"` // RunCancelled, RunSuperseded
	Service string `json:"service"`
	Commit  string `json:"commit"`
	Reason  string `json:"reason,omitempty"`
}

// PredicateType implements [Predicate].
func (Run) PredicateType() string { return TypeRun }
func (p Run) check() error {
	return firstError(p.Event.check(), oneOf("change", p.Change, RunCancelled, RunSuperseded), checkReason(p.Reason))
}

// Results of a rehearsal.
const (
	RehearsalSucceeded = "succeeded"
	RehearsalFailed    = "failed"
)

// Rehearsal says that an environment was taken back to the release before and
// forward again, only to see that it works and how long it takes.
type Rehearsal struct {
	Event
	Result     string     `json:"result"` // RehearsalSucceeded, RehearsalFailed
	From       release.ID `json:"from"`   // runs there, before and afterwards
	To         release.ID `json:"to"`     // was gone back to
	Way        string     `json:"way"`    // warm, cold
	BackMillis int64      `json:"backMillis"`
	OnMillis   int64      `json:"onMillis,omitempty"` // forward again
	Rollouts   []string   `json:"rollouts"`           // that did it
	Reason     string     `json:"reason,omitempty"`
}

// PredicateType implements [Predicate].
func (Rehearsal) PredicateType() string { return TypeRehearsal }
func (p Rehearsal) check() error {
	_, err := release.ParseDigest(string(p.From))
	_, err2 := release.ParseDigest(string(p.To))
	return firstError(p.in(), oneOf("result", p.Result, RehearsalSucceeded, RehearsalFailed), oneOf("way", p.Way, "warm", "cold"), err, err2, checkReason(p.Reason))
}
