package rollout

import (
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Engine numbers the meaning of plans and states; a rollout keeps its own. Plans
// that need no more are still compiled for 1, so that the Sluice before, which may
// run beside this one, can take them on. 2 has counts, safe actions and shadows, 3
// has targets that move by themselves, 4 actions of single signals, and
// who takes another's place.
const Engine = 4

// FullWeight is all traffic, in basis points.
const FullWeight = 10000

// StepKind is one of the few things that a plan is made of.
type StepKind string

// The kinds of steps.
const (
	StepPrepare StepKind = "prepare" // capacity ready, not exposed
	StepCheck   StepKind = "check"   // requests that must be answered
	StepShift   StepKind = "shift"   // weight
	StepReplace StepKind = "replace" // a batch of instances, of a counted plan
	StepBake    StepKind = "bake"    // time and the judge
	StepHold    StepKind = "hold"    // a person
	StepDrive   StepKind = "drive"   // a target that moves by itself goes on, to Weight at most
	StepRetire  StepKind = "retire"  // old capacity leaves traffic for good; it stays warm for RetireAfter
)

// Basis says what a bake is judged against.
type Basis string

// The bases, strongest first.
const (
	BasisConcurrent  Basis = "concurrent"   // the stable at the same time
	BasisBeforeAfter Basis = "before-after" // the stable's own counts before the shift
	BasisNone        Basis = "none"         // first release: health, checks, absolute limits
)

// PlanStep is one step of a compiled plan.
type PlanStep struct {
	Kind     StepKind      `json:"kind"`
	Weight   int           `json:"weight"`             // of the candidate from this step on, basis points
	Bake     time.Duration `json:"bake,omitempty"`     // StepBake
	Basis    Basis         `json:"basis,omitempty"`    // StepBake
	Analysis bool          `json:"analysis,omitempty"` // StepBake: a pass is needed to leave
	Shadow   int           `json:"shadow,omitempty"`   // StepBake at weight 0: share of requests that are copied to the candidate, basis points
	Checks   []string      `json:"checks,omitempty"`   // StepCheck: names of the definition's checks
	Hook     string        `json:"hook,omitempty"`     // StepCheck: the moment that they belong to (pipeline.BeforeTraffic, …); empty: verify

	// Prepare, Shift and Replace of a counted plan: over all hosts, from this step on.
	Run   int `json:"run,omitempty"`   // instances of the candidate
	Keep  int `json:"keep,omitempty"`  // instances of the previous release
	Moved int `json:"moved,omitempty"` // places whose traffic goes to the candidate
}

// Plan is a strategy compiled for one target. A rollout keeps it to its end.
type Plan struct {
	Engine          int           `json:"engine"`
	Strategy        string        `json:"strategy"` // one of pipeline.Strategies, or rollback
	Named           string        `json:"named,omitempty"`
	First           bool          `json:"first"` // nothing to go back to
	Steps           []PlanStep    `json:"steps"`
	OnInconclusive  string        `json:"onInconclusive"`
	OnNoData        string        `json:"onNoData"`
	MaxExtend       int           `json:"maxExtend"`
	Timeout         time.Duration `json:"timeout"`         // preparing, shifting, checks
	RollbackTimeout time.Duration `json:"rollbackTimeout"` // then flagged stuck
	RetireAfter     time.Duration `json:"retireAfter"`
	OnFail          string        `json:"onFail,omitempty"`    // pipeline.Freeze, pipeline.RollForward; empty: go back
	Actions         Actions       `json:"actions,omitempty"`   // of single signals that do not take OnFail
	OnDrift         string        `json:"onDrift,omitempty"`   // pipeline.DriftHold; empty: put it back and go on
	Hosts           int           `json:"hosts,omitempty"`     // of a counted plan, as Instances
	Instances       int           `json:"instances,omitempty"` // on each host; above 0: a counted plan
	Worker          bool          `json:"worker,omitempty"`    // nothing is routed to it: its weight is its share of the instances
	Replaces        bool          `json:"replaces,omitempty"`  // users are on a release that failed, whose place it takes; see [Plan.Replacing]
	Mover           Mover         `json:"mover,omitzero"`      // of a driven plan: who moves traffic
}

// Phase is where a rollout stands. See doc.go for the diagram.
type Phase string

// The phases.
const (
	Pending        Phase = "pending"
	Preparing      Phase = "preparing"
	Checking       Phase = "checking"
	Shifting       Phase = "shifting"
	Baking         Phase = "baking"
	Finishing      Phase = "finishing"
	Succeeded      Phase = "succeeded"
	RollingBack    Phase = "rolling-back"
	RolledBack     Phase = "rolled-back"
	RollbackFailed Phase = "rollback-failed" // only by a person's give-up
	Cancelled      Phase = "cancelled"
	Superseded     Phase = "superseded"
)

// Terminal reports whether nothing follows p.
func (p Phase) Terminal() bool {
	switch p {
	case Succeeded, RolledBack, RollbackFailed, Cancelled, Superseded:
		return true
	}
	return false
}

// Flag is something beside the phase that a person should know.
type Flag struct {
	On     bool          `json:"on,omitempty"`
	Cause  Cause         `json:"cause,omitempty"` // of Held
	Reason string        `json:"reason,omitempty"`
	By     release.Actor `json:"by,omitempty"`
}

// Cause is why a rollout is held. A hold lifts by itself when its cause is gone.
type Cause string

// The causes, the one that hides the others first.
const (
	CauseDrift        Cause = "drift"        // router weights, releases or instances differ from the record
	CauseFrozen       Cause = "frozen"       // it failed, and its safe action is not to go back
	CauseUnreachable  Cause = "unreachable"  // a wanted host doesn't report, or can't be asked where it says that it answers
	CauseNoData       Cause = "no-data"      // the bake is over and nothing was judged
	CauseInconclusive Cause = "inconclusive" // the bake is over and nothing was proved
	CausePlan         Cause = "plan"         // StepHold: a person is wanted
)

// State is everything that a rollout remembers. Replaying its events over
// [New]'s state rebuilds it.
type State struct {
	V        int   `json:"v"` // of this encoding, for upcasters
	Phase    Phase `json:"phase"`
	Step     int   `json:"step"`             // index into Plan.Steps
	Weight   int   `json:"weight"`           // of the candidate, as wanted, basis points
	Exposed  bool  `json:"exposed"`          // a weight above 0 was ever wanted
	Capacity bool  `json:"capacity"`         // the candidate shall run
	Old      bool  `json:"old"`              // the previous release shall run
	Run      int   `json:"run,omitempty"`    // of a counted plan, as wanted: instances of the candidate
	Keep     int   `json:"keep,omitempty"`   // instances of the previous release
	Moved    int   `json:"moved,omitempty"`  // places whose traffic goes to the candidate
	Shadow   int   `json:"shadow,omitempty"` // share of requests that are copied to the candidate, as wanted, basis points
	Taken    bool  `json:"taken,omitempty"`  // fewer instances of the previous release than all were ever wanted

	Seen     Observation `json:"seen"`               // the last one
	Wanted   int64       `json:"wanted"`             // generation of the last Apply; an older observation completes nothing
	Applying bool        `json:"applying,omitempty"` // an Apply was asked for whose Applied has not come: nothing completes

	InPhase  time.Duration `json:"inPhase"`  // accumulated in this phase and step, without pauses and holds
	InAction time.Duration `json:"inAction"` // of preparing, shifting, checking in all: what Timeout bounds
	Back     time.Duration `json:"back"`     // rolling back so far: what RollbackTimeout bounds
	HeldFor  time.Duration `json:"heldFor,omitempty"`

	Paused Flag `json:"paused,omitzero"`
	Held   Flag `json:"held,omitzero"`
	Stuck  Flag `json:"stuck,omitzero"`

	Hurry bool `json:"hurry,omitempty"` // a person wants all batches without their bakes

	Lame bool `json:"lame,omitempty"` // a person goes on although the previous release lacks instances

	Resumed bool `json:"resumed,omitempty"` // a person had the drift put back

	Failing string `json:"failing,omitempty"` // the signals that Verdict fail is of; see [Judged.Failed]
	Waived  string `json:"waived,omitempty"`  // of these, those that a person took for no failure

	Frozen string `json:"frozen,omitempty"` // why: a failure whose safe action is not to go back

	Asked EffectKind `json:"asked,omitempty"` // of a driven plan: what was last asked of the target: drive, continue, stop, revert
	Key   int64      `json:"key,omitempty"`   // and the generation of the first drive: a start is repeated with this key only
	From  int        `json:"from,omitempty"`  // and the weight that the last continue leads on from

	Verdict  verdict.Verdict `json:"verdict,omitempty"` // of the current or last bake
	Sentence string          `json:"sentence,omitempty"`
	Extended int             `json:"extended,omitempty"` // how often this bake was
	CheckOK  bool            `json:"checkOK,omitempty"`  // the checks of the current step were answered

	Reason   string        `json:"reason,omitempty"`   // why it is rolling back, or ended
	By       release.Actor `json:"by,omitempty"`       // who made it so, when a person did
	Aborted  bool          `json:"aborted,omitempty"`  // a person asked for the end
	Rollback string        `json:"rollback,omitempty"` // result: "", done, given-up
}

// Judged reports whether there can be evidence of the candidate: users' requests,
// or copies of them.
func (s State) Judged() bool { return s.Exposed || s.Shadow > 0 }

// Share is what part of users' requests a step's candidate sees, in basis points:
// as their answer, or as copies.
func (s PlanStep) Share() int { return max(s.Weight, s.Shadow) }

// Observation is what the target was read to be, over all its hosts.
type Observation struct {
	Generation     int64  `json:"generation"` // the lowest that a host has applied
	Hosts          int    `json:"hosts"`      // that report, of those wanted
	Missing        int    `json:"missing"`    // wanted hosts without a recent report
	MinWeight      int    `json:"minWeight"`  // of the candidate, over hosts, basis points
	MaxWeight      int    `json:"maxWeight"`
	MeanWeight     int    `json:"meanWeight,omitempty"`  // counted plan: over the hosts that report, as users reach all of them alike
	CandidateReady bool   `json:"candidateReady"`        // every instance on every host
	OldReady       bool   `json:"oldReady"`              // likewise the previous release; true when there is none
	OldSeen        bool   `json:"oldSeen"`               // the previous release runs somewhere
	CandidateSeen  bool   `json:"candidateSeen"`         // the candidate runs somewhere
	Unreachable    string `json:"unreachable,omitempty"` // names of the missing hosts, for people
	Off            string `json:"off,omitempty"`         // the first host that differs from what it was told to run, and in what
	Failed         string `json:"failed,omitempty"`      // why the candidate cannot run: start, health, crash loop, verification
	Misplaced      string `json:"misplaced,omitempty"`   // why checks can't ask the hosts where they say that they answer: no word about the release

	Driving Driving `json:"driving,omitzero"` // of a driven target
}

// Weight is what part of users the candidate was read to have, in basis points. Hosts
// of a counted plan differ; of others that do, the highest counts.
func (o Observation) Weight() int {
	if o.MeanWeight > 0 {
		return o.MeanWeight
	}
	return o.MaxWeight
}

// Event is what happened to a rollout. Exactly one field is set.
type Event struct {
	Start   *Start       `json:"start,omitempty"`
	Applied *Applied     `json:"applied,omitempty"`
	Tick    *Tick        `json:"tick,omitempty"`
	Seen    *Observation `json:"seen,omitempty"`
	Judged  *Judged      `json:"judged,omitempty"`
	Checked *Checked     `json:"checked,omitempty"`
	Command *Command     `json:"command,omitempty"`
}

// Start lets a pending rollout begin.
type Start struct{}

// Applied tells which generation an Apply effect was given. Control sends it in
// the transaction that commits the effect, before any other event. Until then no
// observation completes anything.
type Applied struct {
	Generation int64 `json:"generation"`
}

// Tick is time that passed since the last tick, already clamped by the caller
// to [0, 2 × the planned interval]. Ticks may be merged by adding them up.
type Tick struct {
	Elapsed time.Duration `json:"elapsed"`
}

// Judged is the judge's cumulative answer for the current bake.
type Judged struct {
	Step     int             `json:"step,omitempty"` // index of the bake that it is about; 0 (never a bake) is the current one
	Verdict  verdict.Verdict `json:"verdict"`
	Sentence string          `json:"sentence"`
	Failed   []string        `json:"failed,omitempty"` // of a fail: names as in [Plan.Actions]
}

// Checked is the outcome of the checks of the current Check step.
type Checked struct {
	Step   int    `json:"step"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// CommandKind is what a person can ask of a rollout.
type CommandKind string

// The commands.
const (
	Advance CommandKind = "advance"
	Pause   CommandKind = "pause"
	Resume  CommandKind = "resume"
	Abort   CommandKind = "abort"
	GiveUp  CommandKind = "give-up"

	// Supersede is control's: a newer release takes the place of a pending one.
	Supersede CommandKind = "supersede"
)

// Command is a person's, except Supersede.
type Command struct {
	Kind     CommandKind   `json:"kind"`
	By       release.Actor `json:"by"`
	Reason   string        `json:"reason,omitempty"`
	Full     bool          `json:"full,omitempty"`     // advance: to 100 %
	Override bool          `json:"override,omitempty"` // advance without a pass; needs Reason
}

// Results of going back, in State.Rollback.
const (
	RollbackDone    = "done"
	RollbackGivenUp = "given-up"
)

// EffectKind is what a decision wants done.
type EffectKind string

// The effects. Each is safe to repeat.
const (
	Apply EffectKind = "apply" // bring the target to the state's Weight, Capacity and Old
	Check EffectKind = "check" // run the checks of the current step
	Alarm EffectKind = "alarm" // tell people loudly: Reason

	// Of a target that moves by itself; each gets a generation, as Apply does. See [Ask].
	Drive    EffectKind = "drive"    // start, with State.Key as its idempotency key
	Continue EffectKind = "continue" // lead it on from its own pause point at State.From
	Stop     EffectKind = "stop"     // no user more
	Revert   EffectKind = "revert"   // back to the previous release
)

// Effect is wanted after a state was committed.
type Effect struct {
	Kind   EffectKind `json:"kind"`
	Reason string     `json:"reason,omitempty"`
}
