//go:build ignore

// Writes shop.txtar, the archive of examples/shop.
package main

import (
	"fmt"
	"os"

	"golang.org/x/tools/txtar"

	"github.com/sluicehq/sluice/internal/demo"
)

func main() {
	a, err := demo.Pack(os.DirFS("../../examples/shop"))
	if err == nil {
		err = os.WriteFile("shop.txtar", txtar.Format(a), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
