package cli

import (
	"errors"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/demo"
)

// sweepName is the hidden command that tidies up after a demo.
const sweepName = "tidy"

func (a *app) demo() *cobra.Command {
	o := demo.Options{Janitor: []string{"demo", sweepName}}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole story on this machine, in about a minute",
		Long: `Builds a small Go service, releases it, ships a good change under traffic and then
a bad one, which is found out and taken back without a person, and verifies the
evidence of all that offline. Then it stays up with the web page until Ctrl-C.

It works in a temporary folder on free ports and leaves nothing behind, however it
ends. Nothing is simulated: it is the server of "sluice up" with its own agent, a
Git repository of examples/shop, and a client that counts what customers get.`,
		Example: "  sluice demo\n  sluice demo --once --json\n  sluice demo --once --bad-rate 0   # v3 is good, too: exits 1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"data", "server", "token", "project"} {
				if cmd.Flags().Changed(name) {
					return usage("--%s does not belong to the demo, which runs its own server in a temporary folder", name)
				}
			}
			if !(o.BadRate >= 0 && o.BadRate <= demo.MaxBadRate) {
				return usage("--bad-rate is %v; it is a percentage from 0 to %d (with more, v3's own tests would find it)", o.BadRate, demo.MaxBadRate)
			}
			// A closed terminal ends the demo as Ctrl-C does.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			o.Version = Version()
			o.Story, o.Moving = a.out, a.outTTY
			if a.json {
				o.Story, o.Moving = a.err, a.errTTY
				o.Told = func(d demo.Document) error { return a.printJSON(d) }
			}
			o.Colours = a.paint(o.Story, bold, "") != ""
			err := demo.Run(ctx, o)
			if err != nil && ctx.Err() != nil && !errors.Is(err, demo.ErrIncomplete) {
				return &exit{code: Cancelled, err: errors.New("the demo was ended before its story was told")}
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Once, "once", false, "end when the story is told: 0 if all of it happened, else 1")
	f.Float64Var(&o.BadRate, "bad-rate", 20, "percent of customers that get an error from v3")
	f.StringVar(&o.Addr, "addr", "127.0.0.1:0", "where the server listens; port 0 is a free one")
	c.AddCommand(&cobra.Command{
		Use: sweepName + " DIR", Short: "Tidy up after a demo when standard input ends", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return demo.Sweep(cmd.Context(), args[0], a.in) },
	})
	return c
}
