package pipeline_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// The checked-in reference is what the model says today.
func TestReferenceIsCurrent(t *testing.T) {
	for file, want := range map[string][]byte{"sluice.schema.json": pipeline.Schema(), "sluice-yaml.md": pipeline.Reference()} {
		got, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("docs/reference/%s is not what the model says: run go generate ./internal/pipeline", file)
		}
	}
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(pipeline.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(pipeline.SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(pipeline.SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The schema and the parser agree: what the parser accepts is valid, and what
// breaks a rule about a single value is not.
func TestSchemaAgrees(t *testing.T) {
	schema := compile(t)
	valid := func(src []byte) error {
		var doc any
		if err := yaml.Load(src, &doc); err != nil {
			return err
		}
		return schema.Validate(doc)
	}
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{"version", "unknown-key", "missing-key", "one-of", "wrong-type", "unknown-value", "out-of-range", "bad-duration", "artifact-twice", "not-yet", "empty"}
	for _, file := range append(files, "") {
		src := []byte(everything)
		rule := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if file != "" {
			src = read(t, file)
		}
		_, problems := parse(src)
		switch err := valid(src); {
		case !problems.Failed() && err != nil:
			t.Errorf("%s: the parser accepts it, the schema does not: %v", file, err)
		case slices.Contains(shown, rule) && err == nil:
			t.Errorf("%s: the schema accepts what the parser refuses", file)
		}
	}
}

func TestGoodFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, file := range files {
		src := read(t, file)
		if _, problems := parse(src); len(problems) > 0 {
			t.Errorf("%s:\n%s", file, problems.Render(src, false))
		}
	}
}
