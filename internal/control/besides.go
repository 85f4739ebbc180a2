package control

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
)

// Beside users' requests a candidate may get copies of them (shadow), requests that
// Sluice makes itself (synthetic) and checks at an address of its own (preview).

// previews are where the candidate alone answers, at the address that the definition
// gives it, as hosts say.
func (t *turn) previews() ([]string, error) {
	to := t.plan.Environment.Target
	if to.Preview == "" || !t.row.Live || !t.state.Capacity || t.state.Phase == rollout.RollingBack {
		return nil, nil
	}
	rows, err := t.tx.ObservedHosts()
	if err != nil {
		return nil, fmt.Errorf("couldn't read what hosts report: %w", err)
	}
	return host.Previews(host.Decode(rows), t.key(), to), nil
}

// besides adds to a desired state what shadows, checks and a thin judge need: copies
// of requests, an address of the candidate alone until somebody is exposed, and
// traffic of our own while it is.
func (t *turn) besides(d *wire.Desired) {
	if t.candidate.Shadow = t.state.Shadow; t.state.Shadow > 0 {
		d.Requires = append(d.Requires, wire.FeatureShadow)
	}
	if !t.state.Capacity || t.state.Phase == rollout.RollingBack || t.state.Phase.Terminal() || d.Listen == "" {
		return
	}
	e := t.plan.Environment
	asked := false
	for _, s := range t.plan.Steps {
		asked = asked || s.Kind == rollout.StepCheck && s.Weight == 0
	}
	if e.Target.Preview != "" || asked && !t.state.Exposed {
		host.Preview(d, e.Target)
	}
	if e.Synthetic != nil && t.state.Weight > 0 && t.plan.Strategy != rollout.StrategyRollback {
		host.Synthesize(d, *e.Synthetic)
	}
}

// endSynthetic tells hosts to make no more traffic of ours: the rollout is done,
// and what runs otherwise stays as it is.
func (t *turn) endSynthetic(current wire.Revision) error {
	if t.plan.Environment.Synthetic == nil {
		return nil
	}
	revisions := []wire.Revision{current}
	if t.restore != nil {
		old := *t.restore
		old.Weight, old.Candidate = 0, false
		revisions = append(revisions, old)
	}
	return t.c.want(t.tx, t.key(), placeEffects(t.key()), t.plan.Environment.Target, revisions...)
}

// counts are the counters that the judge reads: users' requests, and those that
// Sluice made where the definition asks for them.
func (t *turn) counts(reports []host.Report) []host.Counts {
	e := t.plan.Environment
	out := host.Counters(reports, t.key(), e.Target.Hosts)
	if e.Synthetic != nil && e.Synthetic.Count {
		out = host.AllCounters(reports, t.key(), e.Target.Hosts)
	}
	if e.Shadow != nil {
		out = append(out, host.ShadowCounters(reports, t.key(), e.Target.Hosts)...)
	}
	return out
}

// counted says in a verdict's sentence that not only users were counted.
func (t *turn) counted(sentence string) string {
	if s := t.plan.Environment.Synthetic; s != nil && s.Count && sentence != "" {
		return sentence + " (synthetic requests are counted too)"
	}
	return sentence
}
