// Command sluice is the whole product: server, agent and command line.
package main

import (
	"os"

	"github.com/sluicehq/sluice/internal/cli"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

func main() {
	sandbox.MaybeRun() // a build step's first process is this program too
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
