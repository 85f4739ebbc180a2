package pipeline

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// check holds the rules over several elements. It skips what is already known
// to be wrong, so that one mistake is one problem.
func (p *parser) check(d *Definition) {
	p.checkSteps(d.Build.Steps)
	p.checkPath(d.Environments)
	p.checkListeners(d.Environments)
	for i, e := range d.Environments {
		at := fmt.Sprintf("environments[%d]", i)
		p.unique(at+".gates", "gate", each(e.Gates, func(g Gate) string { return g.Name }))
		p.checkGates(at, e, d)
		p.checkChecks(at, e)
		p.unique(at+".analysis.metrics", "metric", each(e.Analysis.Metrics, func(m Metric) string { return m.Name }))
		p.unique(at+".analysis.alarms", "alarm", each(e.Analysis.Alarms, func(a Alarm) string { return a.Name }))
		p.repeated(at+".target.hosts", e.Target.Hosts)
		p.checkStrategy(at, e)
		p.checkWeights(at, e.Rollout)
		p.checkInstances(at, e)
		p.checkWorker(at, e)
		p.checkBakes(at, e)
		p.checkSources(at, e)
		p.checkActions(at, e)
	}
	for i := range d.Environments {
		// What a strategy checks before traffic is that hook, by another name.
		e := &d.Environments[i]
		e.Hooks.BeforeTraffic = append(e.Rollout.PreTraffic, e.Hooks.BeforeTraffic...)
		e.Rollout.PreTraffic = nil
	}
}

// each returns what get takes out of every item.
func each[T, U any](items []T, get func(T) U) []U {
	out := make([]U, len(items))
	for i, item := range items {
		out[i] = get(item)
	}
	return out
}

// unique reports names that a list of objects has twice.
func (p *parser) unique(list, what string, names []string) {
	first := map[string]int{}
	for i, n := range names {
		at := fmt.Sprintf("%s[%d]", list, i)
		if n == "" || !p.positions.Has(at) {
			continue
		}
		where := at
		if p.positions.Has(at + ".name") {
			where = at + ".name"
		}
		if j, twice := first[n]; twice {
			p.at(p.valueAt(where), where, Error, "duplicate-name", fmt.Sprintf("%s %s is here a second time; the first is on line %d", what, clip(n), p.valueAt(fmt.Sprintf("%s[%d]", list, j)).Line), "give each its own name")
			continue
		}
		first[n] = i
	}
}

// checkGates reports gates that ask about an environment that isn't there.
func (p *parser) checkGates(at string, e Environment, d *Definition) {
	for i, g := range e.Gates {
		if _, known := d.Environment(g.Env); g.Env != "" && !known {
			at := fmt.Sprintf("%s.gates[%d].env", at, i)
			p.at(p.valueAt(at), at, Error, "unknown-environment", fmt.Sprintf("there is no environment %s", clip(g.Env)), "name one of this file")
		}
	}
}

// repeated reports words that a list of names has twice.
func (p *parser) repeated(list string, words []string) {
	for i, w := range words {
		at := fmt.Sprintf("%s[%d]", list, i)
		if w != "" && slices.Index(words, w) < i {
			p.at(p.valueAt(at), at, Error, "duplicate-name", fmt.Sprintf("%s names %s twice", list, clip(w)), "remove one of them")
		}
	}
}

func (p *parser) checkSteps(steps []Step) {
	const list = "build.steps"
	known := each(steps, func(s Step) string { return s.Name })
	p.unique(list, "step", known)
	p.relations(list, "needs", "step", known, each(steps, func(s Step) []string { return s.Needs }))
}

func (p *parser) checkPath(envs []Environment) {
	const list = "environments"
	known := each(envs, func(e Environment) string { return e.Name })
	p.unique(list, "environment", known)
	broken := p.relations(list, "after", "environment", known, each(envs, func(e Environment) []string { return e.After }))
	// What comes after something broken can never be reached either.
	for again := true; again; {
		again = false
		for i, e := range envs {
			if broken[e.Name] {
				continue
			}
			for j, a := range e.After {
				if broken[a] {
					at := fmt.Sprintf("%s[%d].after[%d]", list, i, j)
					p.at(p.valueAt(at), at, Error, "unreachable", fmt.Sprintf("environment %s can never be reached: it comes after %s, which cannot be reached", clip(e.Name), clip(a)), "mend the path of "+clip(a)+" first")
					broken[e.Name], again = true, true
					break
				}
			}
		}
	}
}

// relations checks the edges of a list of named objects: known, not to itself,
// not twice, no cycle. It returns the names that have no way in.
func (p *parser) relations(list, key, what string, known []string, edges [][]string) map[string]bool {
	broken := map[string]bool{}
	graph := map[string][]string{}
	for i, to := range edges {
		path := fmt.Sprintf("%s[%d].%s", list, i, key)
		p.repeated(path, to)
		for j, t := range to {
			at := fmt.Sprintf("%s[%d]", path, j)
			switch {
			case t == "" || p.isBad(at):
				broken[known[i]] = true
			case t == known[i]:
				p.at(p.valueAt(at), at, Error, "self-reference", fmt.Sprintf("%s %s %s itself", what, clip(t), map[string]string{"needs": "needs", "after": "comes after"}[key]), "remove it")
				broken[known[i]] = true
			case !slices.Contains(known, t):
				mend := "there is no other " + what
				if others := slices.DeleteFunc(slices.Clone(known), func(s string) bool { return s == known[i] || s == "" }); len(others) > 0 {
					mend = didYouMean(t, others[:min(len(others), 20)])
					if n := nearest(t, others); n != "" {
						mend = "did you mean " + n + "?"
					}
				}
				p.at(p.valueAt(at), at, Error, "unknown-"+what, fmt.Sprintf("%s names %s, but there is no such %s", path, clip(t), what), mend)
				broken[known[i]] = true
			case known[i] != "":
				graph[known[i]] = append(graph[known[i]], t)
			}
		}
	}
	for _, cycle := range cycles(known, graph) {
		i := slices.Index(known, cycle[0])
		at := fmt.Sprintf("%s[%d].%s", list, i, key)
		j := slices.Index(edges[i], cycle[1])
		at = fmt.Sprintf("%s[%d]", at, j)
		p.at(p.valueAt(at), at, Error, "cycle", fmt.Sprintf("cycle in %s: %s", key, strings.Join(cycle, " → ")), "remove one of these arrows")
		for _, n := range cycle {
			broken[n] = true
		}
	}
	return broken
}

// checkListeners reports two environments that one agent would serve at one
// address.
func (p *parser) checkListeners(envs []Environment) {
	type door struct {
		at, address, env string
		hosts            []string
	}
	var doors []door
	for i, e := range envs {
		for _, d := range []door{{"listen", e.Target.Listen, e.Name, e.Target.Hosts}, {"preview", e.Target.Preview, e.Name, e.Target.Hosts}} {
			d.at = fmt.Sprintf("environments[%d].target.%s", i, d.at)
			if d.address != "" && !p.isBad(d.at) {
				doors = append(doors, d)
			}
		}
	}
	for i, d := range doors {
		for _, o := range doors[:i] {
			if !sameAddress(d.address, o.address) {
				continue
			}
			if shared := slices.IndexFunc(d.hosts, func(h string) bool { return slices.Contains(o.hosts, h) }); shared >= 0 {
				mend := "give each environment its own port"
				if d.env == o.env {
					mend = "give the preview a port of its own"
				}
				p.at(p.valueAt(d.at), d.at, Error, "port-taken", fmt.Sprintf("%s is taken on host %s by environment %s, which listens on %s", clip(d.address), clip(d.hosts[shared]), clip(o.env), clip(o.address)), mend)
				break
			}
		}
	}
}

// sameAddress reports whether two good addresses cannot both be listened on.
func sameAddress(a, b string) bool {
	hostA, portA, _ := splitAddress(a)
	hostB, portB, _ := splitAddress(b)
	if portA != portB {
		return false
	}
	every := func(h string) bool {
		ip, err := netip.ParseAddr(h)
		return h == "" || err == nil && ip.IsUnspecified()
	}
	same := func(h string) string {
		if strings.EqualFold(h, "localhost") {
			return "127.0.0.1"
		}
		if ip, err := netip.ParseAddr(h); err == nil {
			return ip.Unmap().String()
		}
		return strings.ToLower(h)
	}
	return every(hostA) || every(hostB) || same(hostA) == same(hostB)
}

// checkSources reports metrics that nothing would ever answer.
func (p *parser) checkSources(at string, e Environment) {
	if e.Target.Metrics != nil || p.positions.Has(at+".target.metrics") {
		return
	}
	for i, m := range e.Analysis.Metrics {
		where := fmt.Sprintf("%s.analysis.metrics[%d]", at, i)
		if (m.Kind == Rate || m.Kind == Gauge || m.Kind == Points) && !p.isBad(where) {
			p.at(p.keyAt(where), where, Error, "no-metrics", fmt.Sprintf("metric %s has no source: the instances are not scraped", clip(m.Name)), "say where they answer: target: {metrics: {path: /metrics}}")
		}
	}
}
