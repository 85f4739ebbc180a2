package simtest

import (
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/internal/rollout"
)

// Fault is something that goes wrong.
type Fault int

// The faults. Crashes are of the whole process of a control plane.
const (
	crashBeforeLease Fault = iota
	crashAfterLease
	crashBeforeCommit
	crashAfterCommit
	crashBeforeEffect
	crashAfterEffect
	crashBeforeOutcome
	crashAfterOutcome
	answerOfCommit // committed, and the worker hears an error
	answerOfEffect // done, and the worker hears an error
	reportLost     //
	reportTwice    //
	reportLate     //
	desiredLost    // a router fetches nothing
	desiredLate    // and gets an old document later
	driftFault     // somebody else changes the weight
	metricGap      // no answer, no users
	clockForward   //
	clockBack      //
	leaseLost      // a worker is stopped until its lease is another's
	routerDown     // a partition
	routerRestart  // counters begin anew, instances start again
	instanceDies   //
	candidateFails // for good
	commandStale   // of a revision that is past
	commandTwice   //
	secondStart    // another rollout of the same service and environment
	forgedRelease  // not promoted, or altered
	wrongAddress   // a host says that it answers where checks must not ask
	nFaults        = iota
)

var faultNames = [nFaults]string{
	"crash before a lease", "crash after a lease", "crash before a commit", "crash after a commit",
	"crash before an effect", "crash after an effect", "crash before an outcome", "crash after an outcome",
	"commit's answer lost", "effect's answer lost", "report lost", "report twice", "report late",
	"desired state lost", "desired state late", "drift", "metric gap", "clock forward", "clock back",
	"lease lost in a turn", "router unreachable", "router restarts", "instance dies", "candidate fails",
	"stale command", "command twice", "second rollout", "forged release", "wrong address",
}

func (f Fault) String() string { return faultNames[f] }

// columns are the phases of the table: a rollout's, and after its end.
var columns = []rollout.Phase{rollout.Pending, rollout.Preparing, rollout.Checking, rollout.Shifting, rollout.Baking, rollout.Finishing, rollout.RollingBack, ended}

const ended rollout.Phase = "ended"

// cannot are the cells that stay empty, and why.
var cannot = map[Fault]struct {
	in  []rollout.Phase
	why string
}{
	metricGap:      {nil, ""},
	forgedRelease:  {[]rollout.Phase{rollout.Preparing, rollout.Checking, rollout.Shifting, rollout.Baking, rollout.Finishing, rollout.RollingBack, ended}, "a release is what it is from the start of its rollout"},
	candidateFails: {[]rollout.Phase{rollout.Pending, ended}, "there is no candidate"},
	secondStart:    {[]rollout.Phase{ended}, "it is then the first"},
}

// Coverage counts faults by the phase that they struck in.
type Coverage [nFaults][]int

func (c *Coverage) add(f Fault, p rollout.Phase) {
	if c[f] == nil {
		c[f] = make([]int, len(columns))
	}
	for i, x := range columns {
		if x == p {
			c[f][i]++
			return
		}
	}
	c[f][len(columns)-1]++
}

// Merge adds another seed's counts.
func (c *Coverage) Merge(o Coverage) {
	for f := range c {
		if c[f] == nil {
			c[f] = make([]int, len(columns))
		}
		for i, n := range o[f] {
			c[f][i] += n
		}
	}
}

func impossible(f Fault, p rollout.Phase) bool {
	for _, x := range cannot[f].in {
		if x == p {
			return true
		}
	}
	return false
}

// Empty lists the cells that nothing struck, and those that were struck although
// they can't be.
func (c *Coverage) Empty() (out []string) {
	for f := range Fault(nFaults) {
		for i, p := range columns {
			n := 0
			if c[f] != nil {
				n = c[f][i]
			}
			if no := impossible(f, p); no != (n == 0) {
				out = append(out, fmt.Sprintf("%s in %s: %d", f, p, n))
			}
		}
	}
	return out
}

// Never lists the faults that struck nowhere, and the phases in which none did: what
// few seeds can show already.
func (c *Coverage) Never() (out []string) {
	in := make([]int, len(columns))
	for f := range Fault(nFaults) {
		sum := 0
		for i, n := range c[f] {
			sum += n
			in[i] += n
		}
		if sum == 0 {
			out = append(out, fmt.Sprintf("%s struck nowhere", f))
		}
	}
	for i, p := range columns {
		if in[i] == 0 {
			out = append(out, fmt.Sprintf("nothing struck in %s", p))
		}
	}
	return out
}

// Table is the counts as Markdown.
func (c *Coverage) Table() string {
	var b strings.Builder
	b.WriteString("| fault |")
	for _, p := range columns {
		fmt.Fprintf(&b, " %s |", p)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	for f := range Fault(nFaults) {
		fmt.Fprintf(&b, "| %s |", f)
		for i, p := range columns {
			switch {
			case impossible(f, p):
				b.WriteString(" – |")
			case c[f] == nil:
				b.WriteString(" 0 |")
			default:
				fmt.Fprintf(&b, " %d |", c[f][i])
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
