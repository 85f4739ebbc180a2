package cli

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"golang.org/x/mod/modfile"

	"github.com/sluicehq/sluice/internal/release"
)

//go:embed templates/*.yaml
var templates embed.FS

var templateNames = []string{"simple", "multi-environment"}

func (a *app) init() *cobra.Command {
	var file, kind string
	p := project{}
	c := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a sluice.yaml for a service",
		Long: `Looks at a folder (a Go module, its main package and health path) and writes a
sluice.yaml without errors. It never overwrites. Templates: simple (dev, then a
canary in production), multi-environment (dev, staging, an approval, production).`,
		Example: "  sluice init\n  sluice init services/checkout --template multi-environment --owner team-payments",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			if !slices.Contains(templateNames, kind) {
				return usage("there is no template %q; there are %s", kind, strings.Join(templateNames, ", "))
			}
			found, err := inspect(dir)
			if err != nil {
				return err
			}
			found.override(p)
			if err := release.CheckName(found.Service); err != nil {
				return usage("couldn't name the service: %w; name it with --service", err)
			}
			path := filepath.Join(dir, file)
			src, err := found.render(kind)
			if err != nil {
				return err
			}
			def, problems := parse(file, src)
			if problems.Failed() {
				a.show(problems, src)
				return usage("what was found makes no valid definition; give --service, --owner or --health")
			}
			if err := writeNew(path, src); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"file": path, "service": def.Service, "template": kind, "environments": strings.Split(environmentNames(def), ", ")})
			}
			fmt.Fprintln(a.out, path)
			for _, n := range found.notes {
				a.say("%s %s", a.paint(a.err, yellow, "check:"), clean(n))
			}
			a.say("Next: look at it, commit it, then sluice plan and sluice run (with sluice up in another terminal).")
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&kind, "template", "t", "simple", strings.Join(templateNames, " or "))
	f.StringVar(&file, "file", definitionFile, "name of the file")
	f.StringVar(&p.Service, "service", "", "name of the service, default from the module or folder")
	f.StringVar(&p.Owner, "owner", "", "who answers for it")
	f.StringVar(&p.Health, "health", "", "path that answers 200 when it is ready")
	complete(c, "template", fixed(cobra.ShellCompDirectiveNoFileComp, templateNames...))
	c.ValidArgsFunction = first(fixed(cobra.ShellCompDirectiveFilterDirs))
	return c
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usage("%s is there already and is never overwritten: remove it first, or give another name with --file", path)
	}
	if err != nil {
		return usage("couldn't write the definition: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("couldn't write the definition: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// project is what init found out about a folder.
type project struct {
	Service string
	Owner   string
	Health  string
	Metrics string // path that answers in Prometheus' format; empty: none was found
	Main    string // Go main package, ./cmd/checkout; empty: no Go module
	Deps    bool   // the module has dependencies to fetch
	Tests   bool
	notes   []string
}

func (p *project) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

func (p *project) override(by project) {
	if by.Service != "" {
		p.Service = by.Service
	}
	if by.Owner != "" {
		p.Owner = by.Owner
	} else {
		p.note("owner is %q: write who answers for the service", p.Owner)
	}
	if by.Health != "" {
		p.Health = by.Health
	}
	if p.Health == "" {
		p.Health = "/"
		p.note("no health path was found: / must answer 200 when the service is ready")
	}
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

// toName makes a name of a module path's or folder's last part.
func toName(s string) string {
	s = strings.Trim(notName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		s = "service-" + s
	}
	return strings.TrimRight(s[:min(len(s), 63)], "-")
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// inspect looks at a folder. What it can't tell becomes a note.
func inspect(dir string) (project, error) {
	p := project{Owner: "team-unknown"}
	whole, err := filepath.Abs(dir)
	if err != nil {
		return p, fmt.Errorf("couldn't find the folder: %w", err)
	}
	info, err := os.Stat(whole)
	if err != nil || !info.IsDir() {
		return p, usage("%s is no folder; name the one of the service", dir)
	}
	p.Service = toName(filepath.Base(whole))
	b, err := os.ReadFile(filepath.Join(whole, "go.mod"))
	if errors.Is(err, fs.ErrNotExist) {
		p.note("no Go module was found: write how the service is built into the steps, and how it runs into target.run")
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("couldn't read go.mod: %w", err)
	}
	mod, err := modfile.ParseLax("go.mod", b, nil)
	if err != nil || mod.Module == nil {
		return p, usage("couldn't read go.mod: %w", errors.Join(err, errors.New("it must name a module")))
	}
	parts := strings.Split(mod.Module.Mod.Path, "/")
	for len(parts) > 1 && majorVersion.MatchString(parts[len(parts)-1]) {
		parts = parts[:len(parts)-1]
	}
	if n := toName(parts[len(parts)-1]); n != "" {
		p.Service = n
	}
	p.Deps = len(mod.Require) > 0
	return p, p.sources(whole)
}

// maxSources bounds how many files are looked at.
const maxSources = 5000

var (
	mainClause  = regexp.MustCompile(`(?m)^package main\b`)
	mainFunc    = regexp.MustCompile(`(?m)^func main\(\)`)
	healthPath  = regexp.MustCompile(`"(?:GET )?(/(?:healthz|health|readyz|ready|livez|ping|status))"`)
	metricsPath = regexp.MustCompile(`"(?:GET )?/metrics"`)
	portByName  = regexp.MustCompile(`"PORT"|"port"`)
	healthOrder = []string{"/healthz", "/health", "/readyz", "/ready", "/livez", "/ping", "/status"}
)

func (p *project) sources(root string) error {
	var mains []string
	paths := map[string]bool{}
	port, n := false, 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "vendor" || name == "testdata" || name == "node_modules" || has(filepath.Join(path, "go.mod"))) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" || !d.Type().IsRegular() {
			return nil
		}
		if n++; n > maxSources {
			return filepath.SkipAll
		}
		if strings.HasSuffix(name, "_test.go") {
			p.Tests = true
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range healthPath.FindAllSubmatch(b, -1) {
			paths[string(m[1])] = true
		}
		if metricsPath.Match(b) {
			p.Metrics = "/metrics"
		}
		port = port || portByName.Match(b)
		if mainClause.Match(b) && mainFunc.Match(b) {
			rel, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			mains = append(mains, "./"+filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("couldn't look at the sources: %w", err)
	}
	for _, h := range slices.Backward(healthOrder) {
		if paths[h] {
			p.Health = h
		}
	}
	slices.Sort(mains)
	mains = slices.Compact(mains)
	switch {
	case len(mains) == 0:
		p.Main = "."
		p.note("no main package was found: write the one to build into the step package")
	default:
		p.Main = mains[0]
		for _, m := range mains {
			if m == "./." || strings.HasSuffix(m, "/"+p.Service) {
				p.Main = m
			}
		}
		if len(mains) > 1 {
			p.note("%s is built; there are also %s", p.Main, strings.Join(slices.DeleteFunc(mains, func(m string) bool { return m == p.Main }), ", "))
		}
	}
	if p.Main == "./." {
		p.Main = "."
	}
	if !port {
		p.note("the service must listen on the port in $PORT, at 127.0.0.1; nothing in its sources reads it")
	}
	return nil
}

func has(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (p *project) render(kind string) ([]byte, error) {
	t, err := template.New(kind).ParseFS(templates, "templates/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("couldn't read the templates: %w", err)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, kind+".yaml", p); err != nil {
		return nil, fmt.Errorf("couldn't fill in the template: %w", err)
	}
	return b.Bytes(), nil
}
