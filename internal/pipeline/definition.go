package pipeline

import (
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// Definition is a validated sluice.yaml with every default filled in.
type Definition struct {
	Version      int           `json:"version"`
	Service      string        `json:"service"`
	Owner        string        `json:"owner"`
	Layer        string        `json:"layer,omitempty"`
	Source       Source        `json:"source,omitzero"`
	Build        Build         `json:"build"`
	Environments []Environment `json:"environments"`
}

// Digest returns the digest of the definition's canonical JSON.
func (d Definition) Digest() (release.Digest, error) {
	b, err := release.Canonical(d)
	if err != nil {
		return "", err
	}
	return release.DigestOf(b), nil
}

// Environment returns the environment of that name, or false.
func (d Definition) Environment(name string) (Environment, bool) {
	for _, e := range d.Environments {
		if e.Name == name {
			return e, true
		}
	}
	return Environment{}, false
}

// Source says where protected changes come from.
type Source struct {
	Protected string `json:"protected,omitempty"`
}

// Build is how the artifact is made, once.
type Build struct {
	Steps     []Step     `json:"steps"`
	Artifacts []Artifact `json:"artifacts"`
}

// Step is one isolated command.
type Step struct {
	Name    string           `json:"name"`
	Kind    Kind             `json:"kind"`
	Run     string           `json:"run"`
	Needs   []string         `json:"needs,omitempty"`
	Network bool             `json:"network,omitempty"`
	Cache   []string         `json:"cache,omitempty"`
	Env     map[string]Value `json:"env,omitempty"`
	Timeout time.Duration    `json:"timeout"` // default 30 min
	Reports []Report         `json:"reports,omitempty"`
}

// Kind orders steps from cheap to expensive.
type Kind string

// Kinds is the closed list of step kinds, cheapest first.
var Kinds = []Kind{"fetch", "format", "lint", "compile", "unit", "component", "static", "scan", "package", "integration", "contract", "e2e", "performance", "migrate", "custom"}

// Report is a file that a step writes and that becomes evidence.
type Report struct {
	Format string `json:"format"` // go-test, junit
	Path   string `json:"path"`
}

// Artifact is what the build hands over.
type Artifact struct {
	Name string `json:"name"` // default main
	Type string `json:"type"` // files
	Path string `json:"path"`
}

// Environment is one place that a release is promoted into.
type Environment struct {
	Name     string    `json:"name"`
	Purpose  string    `json:"purpose,omitempty"`
	After    []string  `json:"after,omitempty"`
	Target   Target    `json:"target"`
	Gates    []Gate    `json:"gates,omitempty"`
	Approval *Approval `json:"approval,omitempty"`
	Rollout  Rollout   `json:"rollout"`
	Analysis Analysis  `json:"analysis"`
	Verify   []Check   `json:"verify,omitempty"`
	Hooks    Hooks     `json:"hooks,omitzero"`

	Synthetic *Synthetic `json:"synthetic,omitempty"`
	Shadow    *Shadow    `json:"shadow,omitempty"`
	Rehearse  *Rehearse  `json:"rehearse,omitempty"`
}

// Rehearse has rollbacks rehearsed by themselves: the first one as soon as there is
// a release to go back to.
type Rehearse struct {
	Every time.Duration `json:"every"`
}

// Shadow begins a rollout with copies of users' requests: the candidate answers
// them, nobody sees its answers, and it is judged by them.
type Shadow struct {
	Share float64       `json:"share"` // percent of the requests that may be made twice
	Bake  time.Duration `json:"bake"`
}

// Target is where it runs.
type Target struct {
	Type      string           `json:"type"`   // host
	Hosts     []string         `json:"hosts"`  // agents by name; default: local
	Listen    string           `json:"listen"` // empty: a worker
	Preview   string           `json:"preview,omitempty"`
	Run       string           `json:"run"`
	Instances int              `json:"instances"` // per host, default 1
	Env       map[string]Value `json:"env,omitempty"`
	Health    Health           `json:"health"`
	Metrics   *Metrics         `json:"metrics,omitempty"`
	Sticky    *Sticky          `json:"sticky,omitempty"`
}

// Value is a plain text or a reference to a secret, never both.
type Value struct {
	Plain  string `json:"plain,omitempty"`
	Secret string `json:"secret,omitempty"` // file:PATH
}

// Health is how readiness is asked. Defaults: timeout 1 s, interval 1 s (250 ms
// while starting), healthy 1, failing 3, startIn 60 s, drainIn 30 s.
type Health struct {
	HTTP     string        `json:"http,omitempty"`
	Timeout  time.Duration `json:"timeout"`
	Interval time.Duration `json:"interval"`
	Healthy  int           `json:"healthy"`
	Failing  int           `json:"failing"`
	StartIn  time.Duration `json:"startIn"`
	DrainIn  time.Duration `json:"drainIn"`
}

// Metrics is where the instance answers in Prometheus exposition format.
type Metrics struct {
	Path string `json:"path"`
}

// Sticky names what a user is recognised by.
type Sticky struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"`
}

// Gate is a built-in gate by name, or a CEL expression over the evidence.
type Gate struct {
	Name string `json:"name"`
	CEL  string `json:"cel,omitempty"`

	// Of the gate rehearsed: a rollback was rehearsed within that time, in Env
	// (default: the environment that asks).
	Within time.Duration `json:"within,omitempty"`
	Env    string        `json:"env,omitempty"`
}

// Approval is a person's decision on the evidence packet.
type Approval struct {
	Quorum  int           `json:"quorum"`
	Expires time.Duration `json:"expires"` // default 24 h
}

// Analysis is what is judged and how strictly. Percentages are in percentage
// points as in the file; the judge's other defaults are judge.md's.
type Analysis struct {
	WarmUp    time.Duration `json:"warmUp"`
	Bin       time.Duration `json:"bin"`
	MaxExcess float64       `json:"maxExcess"` // percentage points
	Alpha     float64       `json:"alpha"`
	Beta      float64       `json:"beta"`
	MinEvents int           `json:"minEvents"`
	MaxExtend int           `json:"maxExtend"`
	Metrics   []Metric      `json:"metrics,omitempty"`
	Alarms    []Alarm       `json:"alarms,omitempty"`
}
