package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
)

// interactive reports whether a person can be asked: what is shown goes to
// standard error, what they type comes from standard input.
func (a *app) interactive() bool {
	f, ok := a.in.(*os.File)
	return ok && a.errTTY && !a.json && term.IsTerminal(int(f.Fd()))
}

// answer asks a person for a line.
func (a *app) answer(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.err, question+" ")
	if a.typed == nil {
		a.typed = bufio.NewReader(a.in)
	}
	line := make(chan string, 1)
	go func() { // ends with the program: a terminal's read can't be called off
		s, _ := a.typed.ReadString('\n')
		line <- strings.TrimSpace(s)
	}()
	select {
	case s := <-line:
		return s, nil
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return "", &exit{code: Cancelled, err: errors.New("nothing was done")}
	}
}

func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	s, err := a.answer(ctx, question+" [y/N]")
	s = strings.ToLower(s)
	return s == "y" || s == "yes", err
}

func (a *app) decide(decision string) *cobra.Command {
	var env, packet, comment string
	var show bool
	past := map[string]string{"approve": "Approved", "reject": "Rejected"}[decision]
	c := &cobra.Command{
		Use:   decision + " RUN --env ENV",
		Short: map[string]string{"approve": "Approve", "reject": "Reject"}[decision] + " a release for an environment, having seen its packet",
		Long: `Decides on the approval packet of an environment: what was built and tested, what
the gates said, how it will be exposed and taken back. A decision names the packet's
digest and holds for nothing else: when the packet changed meanwhile it is refused,
with the difference. On a terminal without --packet, shows the packet and asks.`,
		Example: fmt.Sprintf("  sluice %[1]s 12 --env production --show\n  sluice %[1]s 12 --env production --packet sha256:9f86… --comment 'read the diff'", decision),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if packet != "" {
				if _, err := release.ParseDigest(packet); err != nil {
					return usage("--packet: %w", err)
				}
			}
			if packet == "" && !show && !a.interactive() {
				return usage("name the packet that you saw with --packet; sluice %s %s --env ENV --show shows it with its digest", decision, args[0])
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, _, err := c.status(ctx, args[0])
			if err != nil {
				return err
			}
			if env == "" {
				if env, err = deciding(s); err != nil {
					return err
				}
			}
			if show || packet == "" {
				p, err := a.packet(ctx, c, s.Run, env)
				if err != nil || show {
					return err
				}
				packet = string(p.Digest)
				yes, err := a.confirm(ctx, fmt.Sprintf("%s release %s for %s?", strings.ToUpper(decision[:1])+decision[1:], short(s.Release), clean(env)))
				if err != nil {
					return err
				}
				if !yes {
					return &exit{code: Cancelled, err: errors.New("nothing was decided")}
				}
				if comment == "" {
					if comment, err = a.answer(ctx, "Comment (kept as evidence):"); err != nil {
						return err
					}
				}
			}
			q := httpapi.DecisionRequest{Packet: release.Digest(packet), Decision: decision, Comment: comment}
			err = c.do(ctx, http.MethodPost, c.path("runs/%s/environments/%s/decisions", s.Run, env), q, nil)
			if err != nil {
				return a.moved(err, decision, s.Run, env)
			}
			if a.json {
				return a.printJSON(map[string]string{"run": s.Run, "environment": env, "packet": packet, "decision": decision})
			}
			a.say("%s release %s for %s. sluice watch %s shows how it goes on.", past, short(s.Release), clean(env), s.Run)
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "environment; default the one that waits for approval")
	f.StringVar(&packet, "packet", "", "digest of the packet that you saw")
	f.StringVarP(&comment, "comment", "m", "", "why; kept as evidence")
	f.BoolVar(&show, "show", false, "show the packet, decide nothing")
	c.ValidArgsFunction = first(a.runNumbers())
	complete(c, "env", a.environments())
	return c
}

// deciding is the environment that waits for approval, if it is one.
func deciding(s control.Status) (string, error) {
	var wait []string
	for _, e := range s.Environments {
		if awaitsApproval(e) {
			wait = append(wait, e.Name)
		}
	}
	switch len(wait) {
	case 0:
		return "", &exit{code: Failed, err: fmt.Errorf("run %s waits for no approval (it is %s); sluice explain %s says what it does", s.Run, s.State, s.Run)}
	case 1:
		return wait[0], nil
	}
	return "", usage("%s wait for approval; name one with --env", strings.Join(wait, ", "))
}

// packet shows the packet on standard output, or before a question on standard
// error like all that is asked.
func (a *app) packet(ctx context.Context, c *client, id, env string) (httpapi.Packet, error) {
	var p httpapi.Packet
	b, err := c.raw(ctx, http.MethodGet, c.path("runs/%s/environments/%s/packet", id, env), nil)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("couldn't read the server's answer: %w", err)
	}
	if got := release.DigestOf(p.Packet); got != p.Digest {
		canonical, err := release.Canonical(p.Packet)
		if err != nil || release.DigestOf(canonical) != p.Digest {
			return p, fmt.Errorf("the packet has digest %s, not %s as the server says: don't decide on it", got, p.Digest)
		}
	}
	if a.json {
		return p, a.printRaw(b)
	}
	var x control.Packet
	if err := json.Unmarshal(p.Packet, &x); err != nil {
		return p, fmt.Errorf("couldn't read the packet: %w", err)
	}
	a.printPacket(a.out, x, p)
	return p, nil
}

// moved shows how the packet changed since it was looked at.
func (a *app) moved(err error, decision, id, env string) error {
	var r *refused
	if !errors.As(err, &r) || r.Packet == "" {
		return err
	}
	if len(r.Changes) == 0 { // what was named never was one
		return &exit{code: Failed, err: fmt.Errorf("%s: sluice %s %s --env %s --show", r.Error(), decision, id, clean(env))}
	}
	text := fmt.Sprintf("the packet changed since you saw it; it is now %s", r.Packet)
	for _, c := range r.Changes {
		text += "\n  " + clean(change(c))
	}
	return &exit{code: Failed, err: fmt.Errorf("%s\nlook at it again: sluice %s %s --env %s --show", text, decision, id, clean(env))}
}

func change(c control.Change) string {
	said := func(s string) string {
		if s == "" {
			return "(nothing)"
		}
		if r := []rune(s); len(r) > 200 {
			return string(r[:200]) + "…"
		}
		return s
	}
	return fmt.Sprintf("%s: %s → %s", c.Path, said(c.Was), said(c.Now))
}

var commandWords = map[string]struct{ short, done, example string }{
	"advance": {"Take the next step of a rollout before its bake ends", "advances", "  sluice advance 12 --env production\n  sluice advance 12 --env production --full\n  sluice advance 12 --env production --override --reason 'no traffic at night'"},
	"pause":   {"Stop a rollout's progress, not its reaction to failures", "is paused", "  sluice pause 12 --env production --reason 'looking at the logs'"},
	"resume":  {"Let a paused rollout go on, or put back what somebody changed on hosts", "goes on", "  sluice resume 12 --env production"},
	"abort":   {"End a run: stop its build, give up a wait, or move users back", "is ended", "  sluice abort 12\n  sluice abort 12 --env production --reason 'wrong config' --no-wait"},
}

// command is advance, pause, resume or abort.
func (a *app) command(name string) *cobra.Command {
	var env, reason string
	var q httpapi.CommandRequest
	var noWait bool
	words := commandWords[name]
	c := &cobra.Command{
		Use: name + " RUN", Short: words.short, Example: words.example, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if q.Override && reason == "" {
				return usage("an override is kept as evidence and needs --reason")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, _, err := c.status(ctx, args[0])
			if err != nil {
				return err
			}
			if name == "abort" {
				a.sayMoved(s, env, q.Revision)
				body := map[string]string{"environment": env, "reason": reason}
				if err := c.do(ctx, http.MethodPost, c.path("runs/%s/abort", s.Run), body, nil); err != nil {
					return err
				}
				return a.aborted(ctx, c, s.Run, noWait)
			}
			if env == "" {
				if env, err = underWay(s, name); err != nil {
					return err
				}
			}
			q.Command, q.Reason = rollout.CommandKind(name), reason
			if err := c.do(ctx, http.MethodPost, c.path("runs/%s/environments/%s/commands", s.Run, env), q, nil); err != nil {
				return err
			}
			if a.json {
				return a.printNow(ctx, c, s.Run)
			}
			if ended(s) { // only what somebody changed on hosts since then can be told to go on
				a.say("Hosts in %s are told again what was set. sluice explain %s says whether they run it.", clean(env), s.Run)
				return nil
			}
			a.say("The rollout in %s %s. sluice watch %s shows how it goes on.", clean(env), words.done, s.Run)
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "environment; default the one that is under way")
	f.StringVar(&reason, "reason", "", "why; kept as evidence")
	moved := "refused if it moved"
	if name == "abort" {
		moved = "taken also if it moved"
	}
	f.Int64Var(&q.Revision, "revision", 0, "of the rollout that you looked at (status --json); "+moved)
	switch name {
	case "advance":
		f.BoolVar(&q.Full, "full", false, "to 100 %")
		f.BoolVar(&q.Override, "override", false, "without a pass of the judge; needs --reason")
	case "abort":
		f.BoolVar(&noWait, "no-wait", false, "don't wait for the end")
	}
	c.ValidArgsFunction = first(a.runNumbers())
	complete(c, "env", a.environments())
	return c
}

// sayMoved tells who aborts what it looked at no more: nothing keeps an abort away.
func (a *app) sayMoved(s control.Status, env string, revision int64) {
	for _, e := range s.Environments {
		if live := e.Rollout != "" && !e.Phase.Terminal(); live && (env == "" || env == e.Name) && revision > 0 && revision != e.Revision {
			a.say("The rollout in %s is at revision %d, you looked at %d: it is aborted all the same.", clean(e.Name), e.Revision, revision)
		}
	}
}

// underWay is the environment that a command is about which names none: the one whose
// rollout goes on, or that is held since its end, for somebody to resume.
func underWay(s control.Status, verb string) (string, error) {
	for _, e := range s.Environments {
		if e.Rollout != "" && !e.Phase.Terminal() {
			return e.Name, nil
		}
	}
	if ended(s) {
		for _, e := range s.Environments {
			if verb == string(rollout.Resume) && e.WaitingFor != "" { // somebody changed its hosts since
				return e.Name, nil
			}
		}
		// In the server's words.
		return "", &exit{code: Failed, err: fmt.Errorf("run %s has ended (%s), so there is nothing to %s; `sluice explain %s` says what you can do", s.Run, s.State, verb, s.Run)}
	}
	return "", &exit{code: Failed, err: fmt.Errorf("run %s has no rollout under way (it is %s); sluice explain %s says what it does", s.Run, s.State, s.Run)}
}

// printNow prints the status after a command.
func (a *app) printNow(ctx context.Context, c *client, id string) error {
	_, raw, err := c.status(ctx, id)
	if err != nil {
		return err
	}
	return a.printRaw(raw)
}

// aborted follows a run to its end. Ending is what was asked for: it is done
// when the run is, unless its rollback is stuck.
func (a *app) aborted(ctx context.Context, c *client, id string, noWait bool) error {
	if noWait {
		if a.json {
			return a.printNow(ctx, c, id)
		}
		a.say("Run %s is being ended. sluice watch %s shows how it goes on.", id, id)
		return nil
	}
	err := a.followTo(ctx, c, id, false)
	var e *exit
	if errors.As(err, &e) && e.err == nil && slices.Contains([]Code{Failed, RolledBack, Cancelled}, e.code) {
		return nil
	}
	return err
}

func (a *app) giveUp() *cobra.Command {
	var env, reason string
	c := &cobra.Command{
		Use:   "give-up RUN --reason TEXT",
		Short: "Leave a stuck rollback as it is",
		Long: `Ends a rollback that is stuck, and leaves the target as it is: users may still be
on the bad release. It is the only way to the state rollback-failed.`,
		Example: "  sluice give-up 12 --env production --reason 'host is gone for good'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if strings.TrimSpace(reason) == "" {
				return usage("giving up leaves users where they are, is kept as evidence, and needs --reason")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, _, err := c.status(ctx, args[0])
			if err != nil {
				return err
			}
			if env == "" {
				if env, err = underWay(s, "give up"); err != nil {
					return err
				}
			}
			q := httpapi.CommandRequest{Command: rollout.GiveUp, Reason: reason}
			if err := c.do(ctx, http.MethodPost, c.path("runs/%s/environments/%s/commands", s.Run, env), q, nil); err != nil {
				return err
			}
			if a.json {
				return a.printNow(ctx, c, s.Run)
			}
			a.say("The rollback in %s is given up; its target was left as it is.", clean(env))
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "environment; default the one that is under way")
	f.StringVar(&reason, "reason", "", "why; kept as evidence")
	c.ValidArgsFunction = first(a.runNumbers())
	complete(c, "env", a.environments())
	return c
}

func (a *app) quarantine() *cobra.Command {
	c := &cobra.Command{
		Use: "quarantine", Short: "List releases that were rolled back, and let one be promoted again",
		Example: "  sluice quarantine ls\n  sluice quarantine lift 9f86d081884c --reason 'the database was at fault'",
	}
	c.AddCommand(a.quarantineList(), a.quarantineLift())
	return needsVerb(c)
}

// needsVerb makes a command that only groups others refuse anything else.
func needsVerb(c *cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		var verbs []string
		for _, s := range c.Commands() {
			if s.IsAvailableCommand() {
				verbs = append(verbs, s.Name())
			}
		}
		if len(args) > 0 {
			return usage("%s has no command %q; it has %s", c.CommandPath(), args[0], strings.Join(verbs, ", "))
		}
		return usage("say which: %s %s", c.CommandPath(), strings.Join(verbs, "|"))
	}
	return c
}

func (a *app) quarantineList() *cobra.Command {
	var service string
	c := &cobra.Command{
		Use: "ls", Short: "List quarantined releases", Example: "  sluice quarantine ls --service checkout", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			b, err := c.raw(cmd.Context(), http.MethodGet, c.path("quarantines")+query("service", service), nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printRaw(b)
			}
			var list []httpapi.Quarantine
			if err := json.Unmarshal(b, &list); err != nil {
				return fmt.Errorf("couldn't read the server's answer: %w", err)
			}
			if len(list) == 0 {
				a.say("No release is quarantined.")
				return nil
			}
			return a.table("RELEASE\tSERVICE\tSINCE\tLIFTED\tREASON", func(row func(...string)) {
				for _, q := range list {
					lifted := ""
					if q.LiftedAt != nil {
						lifted = string(q.LiftedBy) + ", " + ago(*q.LiftedAt)
					}
					row(q.Release.Short(), q.Service, ago(q.At), lifted, q.Reason)
				}
			})
		},
	}
	c.Flags().StringVarP(&service, "service", "s", "", "only of this service")
	complete(c, "service", a.services())
	return c
}

func (a *app) quarantineLift() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "lift RELEASE --reason TEXT", Short: "Let a quarantined release be promoted again",
		Example: "  sluice quarantine lift 9f86d081884c --reason 'the database was at fault'", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("lifting a quarantine is kept as evidence and needs --reason: why is the release safe now?")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.do(cmd.Context(), http.MethodPost, c.path("quarantines/%s/lift", args[0]), httpapi.LiftRequest{Reason: reason}, nil); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"release": args[0], "lifted": true})
			}
			a.say("Release %s may be promoted again: sluice promote %s --env ENV", clean(args[0]), clean(args[0]))
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why the release is safe now; kept as evidence")
	c.ValidArgsFunction = first(a.releases())
	return c
}
