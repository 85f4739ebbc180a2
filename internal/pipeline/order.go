package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// Order returns the steps in waves: all of a wave may run at once when those
// before have succeeded. Within a wave the file's order is kept.
func Order(steps []Step) ([][]Step, error) {
	known := map[string]bool{}
	for _, s := range steps {
		if known[s.Name] {
			return nil, fmt.Errorf("couldn't order the steps: two are named %s", s.Name)
		}
		known[s.Name] = true
	}
	done := map[string]bool{}
	left := slices.Clone(steps)
	var waves [][]Step
	for len(left) > 0 {
		var wave, rest []Step
		for _, s := range left {
			ready := true
			for _, n := range s.Needs {
				if !known[n] {
					return nil, fmt.Errorf("couldn't order the steps: %s needs %s, which is not a step", s.Name, n)
				}
				ready = ready && done[n]
			}
			if ready {
				wave = append(wave, s)
			} else {
				rest = append(rest, s)
			}
		}
		if len(wave) == 0 {
			return nil, fmt.Errorf("couldn't order the steps: %s need each other", strings.Join(each(rest, func(s Step) string { return s.Name }), ", "))
		}
		for _, s := range wave {
			done[s.Name] = true
		}
		waves, left = append(waves, wave), rest
	}
	return waves, nil
}

// Path returns the environments that a release must have succeeded in before
// env, in promotion order, and env itself as the last.
func Path(d Definition, env string) ([]string, error) {
	index := map[string]int{}
	for i, e := range d.Environments {
		index[e.Name] = i
	}
	var out []string
	state := map[string]int{} // 1 on the way, 2 done
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case 1:
			return fmt.Errorf("couldn't find the path to %s: %s comes after itself", env, name)
		case 2:
			return nil
		}
		i, ok := index[name]
		if !ok {
			return fmt.Errorf("couldn't find the path to %s: there is no environment %s, only %s", env, name,
				listing(each(d.Environments, func(e Environment) string { return e.Name }), "and"))
		}
		state[name] = 1
		for _, a := range d.Environments[i].After {
			if err := visit(a); err != nil {
				return err
			}
		}
		state[name] = 2
		out = append(out, name)
		return nil
	}
	if err := visit(env); err != nil {
		return nil, err
	}
	return out, nil
}

// Next returns the environments that come directly after env, in the file's
// order; for "" those that come after none.
func Next(d Definition, env string) []string {
	var out []string
	for _, e := range d.Environments {
		if env == "" && len(e.After) == 0 || slices.Contains(e.After, env) {
			out = append(out, e.Name)
		}
	}
	return out
}

// Production reports whether the rules for production hold for an environment:
// a part of its name between hyphens is production, prod, prd or live; where no
// environment of the definition is named so, it is the end of a path.
func Production(d Definition, env string) bool {
	named := false
	for _, e := range d.Environments {
		if productionName(e.Name) {
			if e.Name == env {
				return true
			}
			named = true
		}
	}
	e, ok := d.Environment(env)
	return ok && !named && len(e.After) > 0 && len(Next(d, env)) == 0
}

func productionName(name string) bool {
	for part := range strings.SplitSeq(name, "-") {
		if slices.Contains([]string{"production", "prod", "prd", "live"}, part) {
			return !strings.HasPrefix(name, "pre-") && !strings.HasPrefix(name, "non-") && !strings.HasPrefix(name, "not-")
		}
	}
	return false
}

// cycles returns one closed walk per knot of the graph, each beginning at the
// node that comes first in order: a, b, a.
func cycles(order []string, graph map[string][]string) [][]string {
	var out [][]string
	state := map[string]int{}
	var stack []string
	var visit func(n string)
	visit = func(n string) {
		state[n] = 1
		stack = append(stack, n)
		for _, to := range graph[n] {
			switch state[to] {
			case 0:
				visit(to)
			case 1:
				walk := slices.Clone(stack[slices.Index(stack, to):])
				out = append(out, turn(walk, order))
			}
		}
		stack = stack[:len(stack)-1]
		state[n] = 2
	}
	for _, n := range order {
		if state[n] == 0 {
			visit(n)
		}
	}
	return out
}

// turn rotates a walk to begin at its first node in order, and closes it.
func turn(walk, order []string) []string {
	first := 0
	for i, n := range walk {
		if slices.Index(order, n) < slices.Index(order, walk[first]) {
			first = i
		}
	}
	out := append(slices.Clone(walk[first:]), walk[:first]...)
	return append(out, out[0])
}
