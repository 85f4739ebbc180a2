package cli

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
)

// completeWithin bounds how long a shell waits for the server.
const completeWithin = 700 * time.Millisecond

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete gives a flag its completion.
func complete(c *cobra.Command, flag string, f completion) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a flag that does not exist: any call of the program finds it
	}
}

func fixed(d cobra.ShellCompDirective, words ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) { return words, d }
}

// ask makes a completion of what the server knows; without one there is none.
func (a *app) ask(f func(ctx context.Context, c *client, args []string) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		c, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		words, err := f(ctx, c, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, w := range words {
			word, about, _ := strings.Cut(w, "\t")
			if word = clean(word); strings.HasPrefix(word, typed) {
				out = append(out, word+"\t"+clean(about))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// first completes the first argument only.
func first(f completion) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, typed)
	}
}

func (a *app) runNumbers() completion {
	return a.ask(func(ctx context.Context, c *client, _ []string) ([]string, error) {
		var runs []control.Status
		err := c.do(ctx, "GET", c.path("runs")+"?limit=30", nil, &runs)
		var out []string
		for _, r := range runs {
			out = append(out, r.Run+"\t"+r.Service+" "+commit(r.Commit)+" "+string(r.State))
		}
		return out, err
	})
}

func (a *app) stepNames() completion {
	return a.ask(func(ctx context.Context, c *client, args []string) ([]string, error) {
		if len(args) == 0 {
			return nil, nil
		}
		st, _, err := c.status(ctx, args[0])
		var out []string
		for _, s := range st.Steps {
			out = append(out, s.Name+"\t"+s.State)
		}
		return out, err
	})
}

// environments completes those of the run that is the first argument, or all.
func (a *app) environments() completion {
	return a.ask(func(ctx context.Context, c *client, args []string) ([]string, error) {
		var out []string
		if len(args) > 0 && isRun(args[0]) {
			st, _, err := c.status(ctx, args[0])
			for _, e := range st.Environments {
				out = append(out, e.Name+"\t"+string(e.State))
			}
			return out, err
		}
		cells, err := c.overview(ctx)
		seen := map[string]bool{}
		for _, x := range cells {
			if !seen[x.Environment] {
				seen[x.Environment] = true
				out = append(out, x.Environment)
			}
		}
		return out, err
	})
}

func (a *app) services() completion {
	return a.ask(func(ctx context.Context, c *client, _ []string) ([]string, error) {
		cells, err := c.overview(ctx)
		seen := map[string]bool{}
		var out []string
		for _, x := range cells {
			if !seen[x.Service] {
				seen[x.Service] = true
				out = append(out, x.Service)
			}
		}
		return out, err
	})
}

func (a *app) releases() completion {
	return a.ask(func(ctx context.Context, c *client, _ []string) ([]string, error) {
		var list []httpapi.Release
		err := c.do(ctx, "GET", c.path("releases"), nil, &list)
		var out []string
		for _, r := range list[:min(len(list), 30)] {
			out = append(out, r.Release.Short()+"\t"+r.Service+" "+commit(r.Commit)+" "+ago(r.CreatedAt))
		}
		return out, err
	})
}

func (c *client) overview(ctx context.Context) ([]control.Cell, error) {
	var cells []control.Cell
	err := c.do(ctx, "GET", c.path("overview"), nil, &cells)
	return cells, err
}

func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

// isRun reports whether s can be a run's number.
func isRun(s string) bool {
	return s != "" && len(s) <= 12 && strings.Trim(s, "0123456789") == ""
}
