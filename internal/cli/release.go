package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/pipeline"
)

func (a *app) promote() *cobra.Command {
	var env string
	var noWait bool
	c := &cobra.Command{
		Use:   "promote RELEASE --env ENV",
		Short: "Take a release, which exists, into an environment",
		Long: `Promotes a release by its digest, or the first characters of it: gates and approval
of the environment hold as in a run, nothing is built. Follows like "sluice run".`,
		Example: "  sluice promote 9f86d081884c --env production",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if env == "" {
				return usage("say where to with --env ENV")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var started httpapi.Started
			q := httpapi.PromoteRequest{Release: args[0], Environment: env}
			if err := c.do(cmd.Context(), http.MethodPost, c.path("promotions"), q, &started); err != nil {
				return err
			}
			return a.followTo(cmd.Context(), c, started.Run, noWait)
		},
	}
	c.Flags().StringVarP(&env, "env", "e", "", "environment")
	c.Flags().BoolVar(&noWait, "no-wait", false, "end with code 4 when it waits for a person")
	c.ValidArgsFunction = first(a.releases())
	complete(c, "env", a.environments())
	return c
}

func (a *app) rollback() *cobra.Command {
	var env, to, reason string
	var yes, noWait bool
	c := &cobra.Command{
		Use:   "rollback SERVICE --env ENV",
		Short: "Take a service back to its previous release, in one step",
		Long: `Says first how the way back would go (warm: it still runs; cold: it must be started;
or impossible), how long it takes, from where its files come and which release is
then quarantined; then asks on a terminal. A rollout that is under way is aborted;
otherwise all users go to the earlier release at once, without a canary. It follows
until that is observed.`,
		Example: "  sluice rollback checkout --env production\n  sluice rollback checkout --env production --to 9f86d081884c --yes --reason 'orders are lost'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if env == "" {
				return usage("say where with --env ENV")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var way control.Way
			wayErr := c.do(ctx, http.MethodGet, c.path("services/%s/environments/%s/way-back", args[0], env)+query("to", to), nil, &way)
			if wayErr != nil {
				return wayErr
			}
			a.say("%s", a.wayBack(way))
			if way.Kind == "impossible" && way.Aborts == "" {
				return &exit{code: Failed, err: errors.New("there is no way back, so nothing was done")}
			}
			if !yes {
				if err := a.agreed(ctx, fmt.Sprintf("Take %s in %s back?", clean(args[0]), clean(env))); err != nil {
					return err
				}
			}
			var started httpapi.Started
			q := httpapi.RollbackRequest{To: to, Reason: reason}
			if err := c.do(ctx, http.MethodPost, c.path("services/%s/environments/%s/rollbacks", args[0], env), q, &started); err != nil {
				return err
			}
			return a.aborted(ctx, c, started.Run, noWait)
		},
	}
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "environment")
	f.StringVar(&to, "to", "", "release, default the previous one")
	f.StringVar(&reason, "reason", "", "why; kept as evidence")
	f.BoolVarP(&yes, "yes", "y", false, "don't ask")
	f.BoolVar(&noWait, "no-wait", false, "don't wait for the end")
	c.ValidArgsFunction = first(a.services())
	complete(c, "env", a.environments())
	complete(c, "to", a.releases())
	return c
}

// agreed asks whether to do what was said just now.
func (a *app) agreed(ctx context.Context, question string) error {
	if !a.interactive() {
		return usage("nobody can be asked here, so nothing was done: say --yes to do it without a question")
	}
	switch ok, err := a.confirm(ctx, question); {
	case err != nil:
		return err
	case !ok:
		return &exit{code: Cancelled, err: errors.New("nothing was done")}
	}
	return nil
}

func (a *app) wayBack(w control.Way) string {
	colour := map[string]string{"warm": green, "cold": yellow}[w.Kind]
	if colour == "" {
		colour = red
	}
	out := fmt.Sprintf("way back: %s. %s", a.paint(a.err, colour, clean(w.Kind)), prose(w.Sentence))
	if !strings.HasSuffix(out, ".") {
		out += "."
	}
	return out
}

func (a *app) rehearse() *cobra.Command {
	var env, reason string
	var yes, noWait bool
	c := &cobra.Command{
		Use:   "rehearse [SERVICE] --env ENV",
		Short: "Go back to the previous release and forward again, to see how long it takes",
		Long: `Drills a rollback: takes the environment back to its previous release and forward
again, all users at once, through rollouts like any other and with its checks. Nothing
is quarantined. What came of it, and how long each way took, is kept as evidence, which
a gate can ask for: gates: [{name: rehearsed, within: 168h, env: staging}]. Without
SERVICE it is the one of the definition in the working folder.`,
		Example: "  sluice rehearse --env staging\n  sluice rehearse checkout --env staging --yes --reason 'before the release of March'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if env == "" {
				return usage("say where with --env ENV")
			}
			service, err := a.serviceHere(args)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var way control.Way
			if err := c.do(ctx, http.MethodGet, c.path("services/%s/environments/%s/way-back", service, env), nil, &way); err != nil {
				return err
			}
			if way.Kind != "impossible" && way.Aborts == "" {
				a.say("All users of %s in %s go from release %s to %s (%s, about %d s) and back again.", clean(service), clean(env), short(way.From), short(way.To), clean(way.Kind), way.Seconds)
			}
			if !yes {
				if err := a.agreed(ctx, fmt.Sprintf("Rehearse a rollback of %s in %s?", clean(service), clean(env))); err != nil {
					return err
				}
			}
			var started httpapi.Started
			if err := c.do(ctx, http.MethodPost, c.path("services/%s/environments/%s/rehearsals", service, env), httpapi.RehearseRequest{Reason: reason}, &started); err != nil {
				return err
			}
			return a.followTo(ctx, c, started.Run, noWait)
		},
	}
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "environment")
	f.StringVar(&reason, "reason", "", "why; kept as evidence")
	f.BoolVarP(&yes, "yes", "y", false, "don't ask")
	f.BoolVar(&noWait, "no-wait", false, "end with code 4 when it waits for a person")
	c.ValidArgsFunction = first(a.services())
	complete(c, "env", a.environments())
	return c
}

// serviceHere is the service that is named, or else that of the definition in the
// working folder.
func (a *app) serviceHere(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	src, err := os.ReadFile(definitionFile)
	if err != nil {
		return "", usage("say which service, or come to the folder of its definition: %w", err)
	}
	def, problems := parse(definitionFile, src)
	if problems.Failed() {
		a.show(problems, src)
		return "", usage("%s has %s; mend them, or say which service", definitionFile, plural(problems.Count(pipeline.Error), "error"))
	}
	return def.Service, nil
}
