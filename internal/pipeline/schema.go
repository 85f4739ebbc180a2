package pipeline

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
)

// SchemaID is the address that editors know the schema by.
const SchemaID = "https://sluice.dev/schema/v1/sluice.json"

// Schema returns the JSON Schema (draft 2020-12) of sluice.yaml, made from the
// model that Parse reads by. It says less than Parse: rules over several
// elements are not in it.
func Schema() []byte {
	defs := map[string]any{}
	root := model.shape.schema(defs)
	out := map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         SchemaID,
		"title":       "sluice.yaml",
		"description": "How a service is built once, promoted, exposed and judged. Made by go generate ./internal/pipeline; do not edit.",
		"$defs":       defs,
	}
	maps.Copy(out, root)
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		panic("pipeline: the schema cannot be encoded: " + err.Error()) // only maps, texts and numbers
	}
	return append(b, '\n')
}

// schema returns the JSON Schema of a shape; objects go into defs.
func (s *shape) schema(defs map[string]any) map[string]any {
	switch s.form {
	case formObject:
		if _, done := defs[s.name]; !done {
			def := map[string]any{"type": "object", "additionalProperties": false}
			defs[s.name] = def
			properties := map[string]any{}
			var required []string
			for _, k := range s.keys {
				properties[k.key] = k.schema(defs)
				if k.required {
					required = append(required, k.key)
				}
			}
			def["properties"] = properties
			if required != nil {
				def["required"] = required
			}
			var one []any
			for _, k := range s.oneOf {
				one = append(one, map[string]any{"required": []string{k}})
			}
			if one != nil {
				def["oneOf"] = one
			}
			var some []any
			for _, k := range s.anyOf {
				some = append(some, map[string]any{"required": []string{k}})
			}
			if some != nil {
				def["anyOf"] = some
			}
		}
		return map[string]any{"$ref": "#/$defs/" + s.name}
	case formList:
		return map[string]any{"type": "array", "items": s.item.schema(defs), "minItems": s.least, "maxItems": maxItems}
	case formMap:
		return map[string]any{"type": "object", "additionalProperties": s.item.schema(defs), "propertyNames": map[string]any{"pattern": variableName.String()}}
	case formText:
		out := map[string]any{"type": "string", "minLength": 1}
		if s.enum != nil {
			out = map[string]any{"enum": s.enum}
		}
		if s.pattern != "" {
			out["pattern"] = s.pattern
		}
		if s.examples != nil {
			out["examples"] = s.examples
		}
		return out
	case formScalar:
		return map[string]any{"type": []string{"string", "number", "boolean"}}
	case formBoolean:
		return map[string]any{"type": "boolean"}
	case formDuration:
		return map[string]any{"anyOf": []any{
			map[string]any{"type": "string", "pattern": `^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$|^0$`},
			map[string]any{"const": 0},
		}}
	case formEither:
		var forms []any
		for i := range s.either {
			forms = append(forms, s.either[i].schema(defs))
		}
		return map[string]any{"anyOf": forms}
	}
	out := map[string]any{"type": string(s.form)} // integer, number
	bound := func(inclusive, exclusive string, v float64, outside bool) {
		switch {
		case math.IsInf(v, 0):
		case outside:
			out[exclusive] = v
		default:
			out[inclusive] = v
		}
	}
	bound("minimum", "exclusiveMinimum", s.min, s.above)
	bound("maximum", "exclusiveMaximum", s.max, s.below)
	return out
}

func (k keyShape) schema(defs map[string]any) map[string]any {
	if k.refusal != nil {
		return map[string]any{"not": map[string]any{}, "description": k.doc}
	}
	out := k.shape.schema(defs)
	out["description"] = k.doc
	if k.def != "" {
		out["description"] = k.doc + " Default: " + k.def + "."
	}
	return out
}

func keyHomes() map[string][]string { return homesOf(&model.shape) }

// homesOf returns the paths of objects that have a key, for hints.
func homesOf(root *shape) map[string][]string {
	homes := map[string][]string{}
	walk(root, "", func(path string, k keyShape) {
		if path == "" {
			path = "the top of the file"
		}
		if k.refusal == nil && !slices.Contains(homes[k.key], path) {
			homes[k.key] = append(homes[k.key], path)
		}
	})
	return homes
}

// walk visits every key of a shape, with the path of the object that holds it:
// items of lists as name[], free keys as name.*.
func walk(s *shape, path string, visit func(path string, k keyShape)) {
	switch s.form {
	case formObject:
		for _, k := range s.keys {
			visit(path, k)
			if k.shape != nil {
				child := k.key
				if path != "" {
					child = path + "." + k.key
				}
				walk(k.shape, child, visit)
			}
		}
	case formList:
		walk(s.item, path+"[]", visit)
	case formMap:
		walk(s.item, path+".*", visit)
	case formEither:
		for i := range s.either {
			walk(&s.either[i], path, visit)
		}
	}
}
