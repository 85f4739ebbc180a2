package compattest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Compare returns a sentence for each thing in the OpenAPI 3.1 document now that
// would break a client of the document kept, in a stable order.
func Compare(kept, now []byte) ([]string, error) {
	var c comparer
	if err := json.Unmarshal(kept, &c.kept); err != nil {
		return nil, fmt.Errorf("couldn't read the kept document: %w", err)
	}
	if err := json.Unmarshal(now, &c.now); err != nil {
		return nil, fmt.Errorf("couldn't read today's document: %w", err)
	}
	c.document()
	slices.Sort(c.found)
	return slices.Compact(c.found), nil
}

// object is a JSON object.
type object = map[string]any

// direction is who sends what a schema describes. What a client sends may only be
// allowed more; what it receives may only be promised more.
type direction string

const (
	sent     direction = "request"
	received direction = "response"
)

type comparer struct {
	kept, now object
	found     []string
	seen      map[string]bool // pairs of references that this operation compared: types may be recursive
}

func (c *comparer) breaks(where, format string, a ...any) {
	c.found = append(c.found, where+": "+fmt.Sprintf(format, a...))
}

// words say nothing that a client could rely on.
var words = []string{"description", "summary", "title", "tags", "example", "examples", "externalDocs", "deprecated", "default", "$comment"}

// same holds everything in an object that no rule looks at to stay as it is.
func (c *comparer) same(where string, kept, now object, ruled ...string) {
	for _, k := range keys(kept, now) {
		if slices.Contains(words, k) || slices.Contains(ruled, k) {
			continue
		}
		if !reflect.DeepEqual(kept[k], now[k]) {
			c.breaks(where, "%s was %s and is %s", k, text(kept[k]), text(now[k]))
		}
	}
}

func (c *comparer) document() {
	c.same("the document", c.kept, c.now, "info", "components", "paths", "openapi")
	keptSecurity, _ := dig(c.kept, "components")["securitySchemes"].(object)
	c.same("security schemes", keptSecurity, only(dig(c.now, "components", "securitySchemes"), keptSecurity))
	paths, today := dig(c.kept, "paths"), dig(c.now, "paths")
	for _, p := range keys(paths) {
		if today[p] == nil {
			c.breaks(p, "the path was removed")
			continue
		}
		was, is := dig(paths, p), dig(today, p)
		c.same(p, was, only(is, was), "get", "put", "post", "delete", "patch", "head", "options")
		for _, method := range keys(was) {
			op, ok := was[method].(object)
			if !ok || slices.Contains(words, method) {
				continue
			}
			where := strings.ToUpper(method) + " " + p
			if is[method] == nil {
				c.breaks(where, "the operation was removed")
				continue
			}
			c.operation(where, op, dig(is, method))
		}
	}
}

func (c *comparer) operation(where string, kept, now object) {
	c.seen = map[string]bool{}
	c.same(where, kept, now, "parameters", "requestBody", "responses")
	c.parameters(where, kept["parameters"], now["parameters"])
	body, today := dig(kept, "requestBody"), dig(now, "requestBody")
	switch {
	case len(today) == 0 && len(body) > 0:
		c.breaks(where, "the request no longer takes a body")
	case today["required"] == true && body["required"] != true:
		c.breaks(where, "the request needs a body now")
	default:
		c.same(where+" request", body, today, "content", "required")
		c.content(where+" request", sent, dig(body, "content"), dig(today, "content"))
	}
	answers, today := dig(kept, "responses"), dig(now, "responses")
	for _, status := range keys(answers) {
		at := where + " response " + status
		if today[status] == nil {
			c.breaks(at, "it is no longer answered")
			continue
		}
		was, is := dig(answers, status), dig(today, status)
		c.same(at, was, is, "content", "headers", "links")
		c.content(at, received, dig(was, "content"), dig(is, "content"))
		for _, h := range keys(dig(was, "headers")) {
			if dig(is, "headers")[h] == nil {
				c.breaks(at, "header %s was removed", h)
				continue
			}
			c.schema(at+" header "+h, received, dig(was, "headers", h, "schema"), dig(is, "headers", h, "schema"))
		}
	}
}

func (c *comparer) parameters(where string, kept, now any) {
	was, is := parameters(kept), parameters(now)
	for _, name := range keys(was) {
		at := where + " " + name
		if is[name] == nil {
			c.breaks(at, "the parameter was removed")
			continue
		}
		k, n := dig(was, name), dig(is, name)
		c.same(at, k, n, "schema", "required")
		if n["required"] == true && k["required"] != true {
			c.breaks(at, "the parameter is required now")
		}
		c.schema(at, sent, dig(k, "schema"), dig(n, "schema"))
	}
	for _, name := range keys(is) {
		if was[name] == nil && dig(is, name)["required"] == true {
			c.breaks(where+" "+name, "the parameter is new and required")
		}
	}
}

// parameters are a list's parameters by place and name.
func parameters(list any) object {
	out := object{}
	items, _ := list.([]any)
	for _, p := range items {
		if o, ok := p.(object); ok {
			out[fmt.Sprintf("%v parameter %v", o["in"], o["name"])] = o
		}
	}
	return out
}

func (c *comparer) content(where string, d direction, kept, now object) {
	for _, media := range keys(kept) {
		if now[media] == nil {
			c.breaks(where, "%s was removed", media)
			continue
		}
		c.schema(where, d, dig(kept, media, "schema"), dig(now, media, "schema"))
	}
}

// bounds limit values from one side: narrower is higher for the first four.
var bounds = map[string]float64{
	"minimum": 1, "exclusiveMinimum": 1, "minLength": 1, "minItems": 1, "minProperties": 1,
	"maximum": -1, "exclusiveMaximum": -1, "maxLength": -1, "maxItems": -1, "maxProperties": -1,
}

// schema compares what a value may be. where names it for people.
func (c *comparer) schema(where string, d direction, kept, now object) {
	kr, _ := kept["$ref"].(string)
	nr, _ := now["$ref"].(string)
	if kr != "" || nr != "" {
		pair := string(d) + " " + kr + " " + nr
		if kr != "" && nr != "" {
			if c.seen[pair] {
				return
			}
			c.seen[pair] = true
		}
		kept, now = resolve(c.kept, kept, kr), resolve(c.now, now, nr)
	}
	ruled := []string{"$ref", "type", "enum", "properties", "required", "items", "additionalProperties"}
	c.types(where, d, kept["type"], now["type"])
	c.enum(where, d, kept["enum"], now["enum"])
	for _, b := range slices.Sorted(maps.Keys(bounds)) {
		ruled = append(ruled, b)
		was, is := bound(kept[b], bounds[b]), bound(now[b], bounds[b])
		if d == sent && is > was || d == received && is < was {
			c.breaks(where, "%s was %s and is %s", b, text(kept[b]), text(now[b]))
		}
	}
	for _, loose := range []string{"pattern", "format", "multipleOf", "uniqueItems", "const"} {
		ruled = append(ruled, loose)
		if reflect.DeepEqual(kept[loose], now[loose]) {
			continue
		}
		if d == sent && now[loose] == nil || d == received && kept[loose] == nil {
			continue // a client may say more, or is promised more
		}
		c.breaks(where, "%s was %s and is %s", loose, text(kept[loose]), text(now[loose]))
	}
	c.properties(where, d, kept, now)
	if kept["items"] != nil && now["items"] != nil {
		c.schema(where+"[]", d, dig(kept, "items"), dig(now, "items"))
	} else if d == sent && now["items"] != nil || d == received && kept["items"] != nil {
		c.breaks(where, "items were %s and are %s", text(kept["items"]), text(now["items"]))
	}
	c.more(where, d, kept["additionalProperties"], now["additionalProperties"])
	c.same(where, kept, now, ruled...)
}

func (c *comparer) properties(where string, d direction, kept, now object) {
	was, is := dig(kept, "properties"), dig(now, "properties")
	for _, name := range keys(was) {
		at := where + " ." + name
		if is[name] == nil {
			c.breaks(at, "the field was removed")
			continue
		}
		c.schema(at, d, dig(was, name), dig(is, name))
	}
	wasRequired, isRequired := list(kept["required"]), list(now["required"])
	for _, name := range isRequired {
		if d == sent && !slices.Contains(wasRequired, name) {
			c.breaks(fmt.Sprintf("%s .%v", where, name), "the field is required now")
		}
	}
	for _, name := range wasRequired {
		if d == received && is[fmt.Sprint(name)] != nil && !slices.Contains(isRequired, name) {
			c.breaks(fmt.Sprintf("%s .%v", where, name), "the field may be missing now")
		}
	}
}

// more compares what fields beyond the named ones may be. An answer that gets a
// new field is an addition, so false there promises nothing.
func (c *comparer) more(where string, d direction, kept, now any) {
	if reflect.DeepEqual(kept, now) {
		return
	}
	was, wasSchema := kept.(object)
	is, isSchema := now.(object)
	switch {
	case wasSchema && isSchema:
		c.schema(where+" .*", d, was, is)
	case d == sent && kept == false, d == sent && (now == nil || now == true):
	case d == received && !wasSchema:
	default:
		c.breaks(where, "further fields were %s and are %s", text(kept), text(now))
	}
}

func (c *comparer) types(where string, d direction, kept, now any) {
	was, is := list(kept), list(now)
	if d == received {
		was, is = is, was
	}
	// Now was is what has to stay allowed; a schema without a type allows all.
	if len(is) == 0 {
		return
	}
	for _, t := range was {
		if !slices.Contains(is, t) && (t != "integer" || !slices.Contains(is, "number")) {
			c.breaks(where, "the type was %s and is %s", text(kept), text(now))
			return
		}
	}
	if len(was) == 0 {
		c.breaks(where, "the type was %s and is %s", text(kept), text(now))
	}
}

// enum: an answer may get a new word, and clients have to bear it.
func (c *comparer) enum(where string, d direction, kept, now any) {
	if d == received || now == nil {
		return
	}
	if kept == nil {
		c.breaks(where, "only the values %s are taken now", text(now))
		return
	}
	for _, v := range list(kept) {
		if !slices.Contains(list(now), v) {
			c.breaks(where, "the value %s was removed", text(v))
		}
	}
}

func resolve(document, schema object, ref string) object {
	name, ok := strings.CutPrefix(ref, "#/components/schemas/")
	if !ok {
		return schema
	}
	return dig(document, "components", "schemas", name)
}

// bound makes a bound rise as it narrows; none is the widest.
func bound(v any, sign float64) float64 {
	if f, ok := v.(float64); ok {
		return f * sign
	}
	return math.Inf(-1)
}

func dig(o object, path ...string) object {
	for _, p := range path {
		o, _ = o[p].(object)
	}
	return o
}

// only is now without what kept does not have.
func only(now, kept object) object {
	out := object{}
	for k := range kept {
		if v, ok := now[k]; ok {
			out[k] = v
		}
	}
	return out
}

func list(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}

func keys(objects ...object) []string {
	all := map[string]bool{}
	for _, o := range objects {
		for k := range o {
			all[k] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func text(v any) string {
	if v == nil {
		return "not set"
	}
	b, err := json.Marshal(v)
	if err != nil || len(b) > 200 {
		return fmt.Sprintf("%.200v", v)
	}
	return string(b)
}
