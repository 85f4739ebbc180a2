package pipeline

import (
	"fmt"
	"strings"
	"sync"
)

// Answers are what `sluice advise` asks about a service in an environment.
type Answers struct {
	Risk         string  `json:"risk"`         // what a bad release costs: low, medium, high, critical
	UserFacing   bool    `json:"userFacing"`   // people wait for its answers
	RPS          float64 `json:"rps"`          // requests per second, all versions together; 0: not known
	BaselineRate float64 `json:"baselineRate"` // percent of them that fail today
	Instances    int     `json:"instances"`    // in all
	Worker       bool    `json:"worker"`       // takes work, and no requests
	Capacity     string  `json:"capacity"`     // what may run beside during a rollout: double, batch, none
	Downtime     string  `json:"downtime"`     // that is bearable: none, short
	Drift        string  `json:"drift"`        // two versions at once, or instances that differ: allowed, none
	Rollback     string  `json:"rollback"`     // how soon a bad release must be gone: seconds, minutes, hours
	Compliance   string  `json:"compliance"`   // none, evidence, approval
	State        string  `json:"state"`        // what a release does to data: none, compatible, migration, breaking
}

// Question is one thing that is asked.
type Question struct {
	Key, Text, Default string
	Words              []string // closed list; nil: a number, or true or false
}

// DefaultAnswers are those of nobody who was asked.
var DefaultAnswers = Answers{Risk: "medium", UserFacing: true, BaselineRate: 0.1, Instances: 1, Capacity: "double", Downtime: "none", Drift: "allowed", Rollback: "seconds", Compliance: "none", State: "compatible"}

// Questions are those of an answers file, in the order in which they are asked.
var Questions = []Question{
	{"risk", "What does a bad release cost?", "medium", []string{"low", "medium", "high", "critical"}},
	{"userFacing", "Do people wait for its answers?", "true", []string{"true", "false"}},
	{"worker", "Does it take work from a queue, and no requests?", "false", []string{"true", "false"}},
	{"rps", "How many requests per second does it get? 0: not known.", "0", nil},
	{"baselineRate", "What percent of its requests fail today?", "0.1", nil},
	{"instances", "How many instances run in all?", "1", nil},
	{"capacity", "What may run beside it during a rollout: all of it twice, a batch more, nothing more?", "double", []string{"double", "batch", "none"}},
	{"downtime", "How much downtime is bearable?", "none", []string{"none", "short"}},
	{"drift", "May two versions serve side by side for a while?", "allowed", []string{"allowed", "none"}},
	{"rollback", "How soon must a bad release be gone?", "seconds", []string{"seconds", "minutes", "hours"}},
	{"compliance", "Who must have agreed: nobody, kept evidence, a person?", "none", []string{"none", "evidence", "approval"}},
	{"state", "What does a release do to stored data: nothing, changes that old and new can read, a migration that is expanded first, one that the old release cannot read?", "compatible", []string{"none", "compatible", "migration", "breaking"}},
}

func question(key string) Question {
	for _, q := range Questions {
		if q.Key == key {
			return q
		}
	}
	panic("pipeline: no question " + key)
}

func word(key string, set func(*Answers, string)) member[Answers] {
	q := question(key)
	return keyMember(q, oneOf("an answer", q.Words), set)
}

func keyMember[T any](q Question, c codec[T], set func(*Answers, T)) member[Answers] {
	return key(q.Key, q.Text, c, set, byDefault(q.Default))
}

var answersModel = object("answers", DefaultAnswers,
	word("risk", func(a *Answers, v string) { a.Risk = v }),
	keyMember(question("userFacing"), boolean(), func(a *Answers, v bool) { a.UserFacing = v }),
	keyMember(question("worker"), boolean(), func(a *Answers, v bool) { a.Worker = v }),
	keyMember(question("rps"), number(shape{min: 0, max: 1e7}), func(a *Answers, v float64) { a.RPS = v }),
	keyMember(question("baselineRate"), number(shape{min: 0, max: 100, below: true}), func(a *Answers, v float64) { a.BaselineRate = v }),
	keyMember(question("instances"), integer(1, 100_000), func(a *Answers, v int) { a.Instances = v }),
	word("capacity", func(a *Answers, v string) { a.Capacity = v }),
	word("downtime", func(a *Answers, v string) { a.Downtime = v }),
	word("drift", func(a *Answers, v string) { a.Drift = v }),
	word("rollback", func(a *Answers, v string) { a.Rollback = v }),
	word("compliance", func(a *Answers, v string) { a.Compliance = v }),
	word("state", func(a *Answers, v string) { a.State = v }),
)

// ParseAnswers reads a file of answers, strictly, over those that are known.
func ParseAnswers(file string, src []byte, known Answers) (Answers, Problems) {
	p := &parser{file: file, positions: Positions{}, homes: sync.OnceValue(func() map[string][]string { return homesOf(&answersModel.shape) }), bad: map[string]bool{}, seen: map[Problem]bool{}}
	root := p.load(src)
	if root == nil {
		return known, p.finish()
	}
	read, _ := answersModel.read(p, root, "")
	a := known
	for _, q := range Questions {
		if p.positions.Has(q.Key) {
			a = merged(a, read, q.Key)
		}
	}
	if !p.full() && p.positions.Has("rps") && a.Worker && a.RPS > 0 {
		p.at(p.keyAt("rps"), "rps", Error, "worker", "a worker gets no requests, so that rps says nothing", "remove rps, or worker")
	}
	return a, p.finish()
}

// Answer puts one answer, as a person typed it, in its place.
func Answer(a Answers, key, value string) (Answers, error) {
	src := key + ": " + value + "\n"
	one, problems := ParseAnswers("answer", []byte(src), a)
	switch {
	case problems.Failed():
		return a, fmt.Errorf("%s; %s", problems[0].Message, problems[0].Mend)
	case strings.ContainsAny(value, "\r\n"):
		return a, fmt.Errorf("%q is more than one answer", clip(value))
	}
	return one, nil
}

// merged is a with one answer of b.
func merged(a, b Answers, key string) Answers {
	switch key {
	case "risk":
		a.Risk = b.Risk
	case "userFacing":
		a.UserFacing = b.UserFacing
	case "worker":
		a.Worker = b.Worker
	case "rps":
		a.RPS = b.RPS
	case "baselineRate":
		a.BaselineRate = b.BaselineRate
	case "instances":
		a.Instances = b.Instances
	case "capacity":
		a.Capacity = b.Capacity
	case "downtime":
		a.Downtime = b.Downtime
	case "drift":
		a.Drift = b.Drift
	case "rollback":
		a.Rollback = b.Rollback
	case "compliance":
		a.Compliance = b.Compliance
	case "state":
		a.State = b.State
	}
	return a
}
