// Command schemagen writes what package pipeline says of sluice.yaml: the JSON
// Schema and the reference page. `go generate ./internal/pipeline` runs it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluicehq/sluice/internal/pipeline"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: schemagen FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("couldn't make the folder of the reference: %w", err)
	}
	for name, content := range map[string][]byte{
		"sluice.schema.json": pipeline.Schema(),
		"sluice-yaml.md":     pipeline.Reference(),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return fmt.Errorf("couldn't write the reference: %w", err)
		}
	}
	return nil
}
