package pipeline

import (
	"fmt"
	"strconv"
	"strings"
)

// Mermaid returns the pipeline as a Mermaid flowchart: steps by their needs, the
// artifact, then for each environment its gates, approval, weights and checks.
func Mermaid(d Definition) string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	line := func(format string, args ...any) { fmt.Fprintf(&b, "  "+format+"\n", args...) }

	line("subgraph build [%s]", quoted("build "+d.Service))
	id := map[string]string{}
	needed := map[string]bool{}
	for i, s := range d.Build.Steps {
		id[s.Name] = "s" + strconv.Itoa(i)
		line("  s%d[%s]", i, quoted(s.Name+"\n"+string(s.Kind)))
	}
	for _, s := range d.Build.Steps {
		for _, n := range s.Needs {
			needed[n] = true
			line("  %s --> %s", id[n], id[s.Name])
		}
	}
	line("end")
	for i, a := range d.Build.Artifacts {
		line("a%d[(%s)]", i, quoted(a.Name+"\n"+a.Type+" "+a.Path))
		for _, s := range d.Build.Steps {
			if !needed[s.Name] {
				line("%s --> a%d", id[s.Name], i)
			}
		}
	}

	env := map[string]int{}
	for i, e := range d.Environments {
		env[e.Name] = i
		entry, last := "", ""
		node := func(kind, shape string) {
			n := fmt.Sprintf("e%d%s", i, kind)
			line("  %s%s", n, shape)
			if last == "" {
				entry = n
			} else {
				line("  %s --> %s", last, n)
			}
			last = n
		}
		line("subgraph e%d [%s]", i, quoted(e.Name))
		for j, g := range e.Gates {
			node("g"+strconv.Itoa(j), "{"+quoted(g.Name)+"}")
		}
		if e.Approval != nil {
			node("p", "[/"+quoted(fmt.Sprintf("approval by %d\nwithin %s", e.Approval.Quorum, Short(e.Approval.Expires)))+"/]")
		}
		for j, s := range Weights(e.Rollout) {
			text := strconv.FormatFloat(s.Weight, 'f', -1, 64) + " %" + e.Rollout.manner(e.Target)
			if s.Bake > 0 {
				text += "\nbake " + Short(s.Bake)
			}
			node("w"+strconv.Itoa(j), "["+quoted(text)+"]")
		}
		for j, c := range e.Verify {
			node("v"+strconv.Itoa(j), "(["+quoted(c.Name+"\n"+c.What())+"])")
		}
		line("end")
		if len(e.After) == 0 {
			for j := range d.Build.Artifacts {
				line("a%d --> %s", j, entry)
			}
		}
	}
	for i, e := range d.Environments {
		for _, a := range e.After {
			line("e%d --> e%d", env[a], i)
		}
	}
	return b.String()
}

// quoted returns s as a Mermaid label; nothing in it can end the label.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`&`, "&amp;", `"`, "&quot;", "<", "&lt;", ">", "&gt;", "\n", "<br/>", "`", "&#96;", "\r", "").Replace(s) + `"`
}
