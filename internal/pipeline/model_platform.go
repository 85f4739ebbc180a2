package pipeline

import (
	"fmt"
	"strings"
	"sync"
)

// platformModel is the whole of a platform.yaml.
var platformModel = object("platform", Platform{},
	key("version", "Version of the file's format. This build reads version 1.", version(), func(pl *Platform, v int) { pl.Version = v }, required),
	key("owner", "Who answers for the platform: errors about its rules name them.", text(notBlank, atMost(128)), func(pl *Platform, v string) { pl.Owner = v }, required),
	key("standards", "Rollouts that services name instead of writing them.", list(standardModel, 1), func(pl *Platform, v []Standard) { pl.Standards = v }),
	notYet[Platform]("projects", "register projects and services", "name the owner in each sluice.yaml"),
	notYet[Platform]("services", "register projects and services", "name the owner in each sluice.yaml"),
	notYet[Platform]("environments", "hold environments to the platform's rules", "write gates and approval in each sluice.yaml"),
	notYet[Platform]("windows", "keep release windows", "ask for an approval and decide then"),
	notYet[Platform]("freezes", "keep freezes", "ask for an approval and decide then"),
	notYet[Platform]("groups", "check that an approver belongs to a group", "leave groups out; the approver is the user who holds the access token"),
	notYet[Platform]("secrets", "configure secret stores", "write secrets as file:PATH"),
	notYet[Platform]("notify", "send notifications", "watch runs with `sluice watch RUN` or the web page"),
)

var standardModel = besides(object("standard", Standard{Analysis: defaultAnalysis},
	key("name", "Name that services write.", also(name(), func(p *parser, at string, v string) bool {
		for _, w := range strategyWords() {
			if w == v {
				p.at(p.valueAt(at), at, Error, "reserved-name", fmt.Sprintf("standard %s has the name of a strategy", clip(v)), "use another name; services could not say which is meant")
				return false
			}
		}
		return true
	}), func(s *Standard, v string) { s.Name = v }, required),
	key("version", "Version of the standard. A changed standard is another version: services that name one keep it.", integer(1, 999_999_999), func(s *Standard, v int) { s.Version = v }, required),
	key("purpose", "What it is for, in a few words.", text(notBlank, atMost(200)), func(s *Standard, v string) { s.Purpose = v }),
	key("rollout", "How traffic moves, as in a sluice.yaml. A service may bake longer, at smaller weights.", rolloutModel, func(s *Standard, v Rollout) { s.Rollout = v }, required),
	key("analysis", "What is judged, as in a sluice.yaml. What it says a service may only tighten; what it leaves out is the service's.", analysisModel, func(s *Standard, v Analysis) { s.Analysis = v }, byDefault("the service's own")),
), func(p *parser, at string, s Standard) bool {
	if s.Rollout.Standard != "" && !p.isBad(at+".rollout") {
		p.at(p.valueAt(at+".rollout"), at+".rollout", Error, "self-reference", "a standard cannot be another one", "write the strategy out")
		return false
	}
	return true
})

// ParsePlatform reads a platform.yaml with the strictness of [Parse]. The platform
// is to be used only when the problems have no error.
func ParsePlatform(file string, src []byte, opts ...Option) (Platform, Problems) {
	p := &parser{file: file, positions: Positions{}, homes: sync.OnceValue(func() map[string][]string { return homesOf(&platformModel.shape) }), bad: map[string]bool{}, seen: map[Problem]bool{}}
	for _, o := range opts {
		o(p)
	}
	root := p.load(src)
	if root == nil {
		return Platform{}, p.finish()
	}
	pl, _ := platformModel.read(p, root, "")
	if p.full() {
		return pl, p.finish()
	}
	seen := map[string]int{}
	for i := range pl.Standards {
		s := &pl.Standards[i]
		at := fmt.Sprintf("standards[%d]", i)
		if j, twice := seen[s.ID()]; twice && s.Name != "" {
			p.at(p.valueAt(at+".name"), at+".name", Error, "duplicate-name", fmt.Sprintf("standard %s is here a second time; the first is on line %d", clip(s.ID()), p.valueAt(fmt.Sprintf("standards[%d]", j)).Line), "give it another version")
		}
		seen[s.ID()] = i
		s.written = map[string]bool{}
		for path := range p.positions {
			if key, ok := strings.CutPrefix(path, at+"."); ok && strings.Count(key, ".") == 1 && !strings.Contains(key, "[") {
				s.written[key] = true
			}
		}
		if p.positions.Has(at + "." + innerRetireAfter) {
			s.written["rollout.retireAfter"] = true
		}
		if s.Rollout.Strategy == Canary && len(s.Rollout.Steps) == 0 && !p.isBad(at+".rollout") {
			s.Rollout.Steps = append(s.Rollout.Steps, defaultSteps...)
		}
		// The rules over several keys hold for a standard as for who uses it.
		e := Environment{Name: s.Name, Target: Target{Type: "host", Listen: ":1", Metrics: &Metrics{}}, Rollout: s.Rollout, Analysis: s.Analysis}
		p.completeAnalysis(at, &e)
		p.unique(at+".analysis.metrics", "metric", each(e.Analysis.Metrics, func(m Metric) string { return m.Name }))
		p.checkWeights(at, e.Rollout)
		p.checkBakes(at, e)
	}
	return pl, p.finish()
}
