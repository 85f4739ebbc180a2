package pipeline

import (
	"fmt"
	"strings"
)

// Reference returns docs/reference/sluice-yaml.md: every key, what this build
// refuses, and every rule. It is made from the model that Parse reads by.
func Reference() []byte {
	var b strings.Builder
	b.WriteString("# sluice.yaml\n\n" +
		"Made by `go generate ./internal/pipeline`; do not edit. Editors read [sluice.schema.json](sluice.schema.json):\n" +
		"begin the file with `# yaml-language-server: $schema=` and its path.\n\n" +
		"Durations are Go's (`90s`, `2m`, `1h30m`), percentages are numbers (`5`), secrets only references (`{secret: 'file:PATH'}`).\n" +
		"A key in **bold** must be there. Lists show as `name[]`, free keys as `name.*`.\n")

	seen := map[string]bool{}
	var refused []string
	var object func(s *shape, path string)
	object = func(s *shape, path string) {
		switch s.form {
		case formList:
			object(s.item, path+"[]")
			return
		case formMap:
			object(s.item, path+".*")
			return
		case formEither:
			for i := range s.either {
				object(&s.either[i], path)
			}
			return
		case formObject:
		default:
			refused = append(refused, refusedRows("`"+path+"`: ", s.refused)...)
			return
		}
		title := path
		if title == "" {
			title = "The file"
		} else {
			title = "`" + path + "`"
		}
		if !seen[s.name] {
			fmt.Fprintf(&b, "\n## %s\n\n", title)
			if s.oneOf != nil {
				fmt.Fprintf(&b, "Exactly one of `%s`.\n\n", strings.Join(s.oneOf, "`, `"))
			}
			if s.anyOf != nil {
				fmt.Fprintf(&b, "At least one of `%s`.\n\n", strings.Join(s.anyOf, "`, `"))
			}
			b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
			for _, k := range s.keys {
				if k.refusal != nil {
					continue
				}
				shown := "`" + k.key + "`"
				if k.required {
					shown = "**`" + k.key + "`**"
				}
				fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", shown, cellText(k.shape.kind()), cellText(k.def), cellText(k.doc))
			}
		}
		again := seen[s.name]
		seen[s.name] = true
		for _, k := range s.keys {
			child := strings.TrimPrefix(path+"."+k.key, ".")
			switch {
			case again:
			case k.refusal != nil:
				refused = append(refused, fmt.Sprintf("| `%s` | It cannot %s. | %s |\n", child, k.refusal.cannot, sentence(k.refusal.nearest)))
			default:
				object(k.shape, child)
			}
		}
	}
	object(&model.shape, "")

	b.WriteString("\n## Not in this build\n\nThese are known and refused, so that nothing is accepted and ignored.\n\n| element | this build | instead |\n|---|---|---|\n")
	for _, r := range refused {
		b.WriteString(r)
	}
	for _, r := range refusedRows("`secret`, schemes ", secretStores) {
		b.WriteString(r)
	}
	b.WriteString("\n## Rules\n\nAn error stops a run; `lint` exits 2. A warning is probably a mistake; a note is a choice worth knowing of.\n" +
		"Production is an environment with production, prod, prd or live as a part of its name (but not pre-, non- or not-);\n" +
		"where there is none, it is the end of a promotion path.\n\n| rule | severity | meaning |\n|---|---|---|\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.id, r.severity, cellText(r.meaning))
	}
	return []byte(b.String())
}

// refusedRows returns one row for all words that are refused alike.
func refusedRows(element string, refused []refusal) []string {
	var rows []string
	for i := 0; i < len(refused); {
		r := refused[i]
		alike := strings.Replace(r.cannot, r.word, "…", 1)
		words := []string{"`" + r.word + "`"}
		for i++; i < len(refused) && strings.Replace(refused[i].cannot, refused[i].word, "…", 1) == alike; i++ {
			words = append(words, "`"+refused[i].word+"`")
		}
		if len(words) == 1 {
			alike = r.cannot
		}
		rows = append(rows, fmt.Sprintf("| %s%s | It cannot %s. | %s |\n", element, strings.Join(words, ", "), alike, sentence(r.nearest)))
	}
	return rows
}

// kind says a shape's type in a few words.
func (s *shape) kind() string {
	switch s.form {
	case formObject:
		return "mapping"
	case formList:
		return "list of " + s.item.kind()
	case formMap:
		return "mapping of " + s.item.kind()
	case formEither:
		var forms []string
		for i := range s.either {
			forms = append(forms, s.either[i].kind())
		}
		return strings.Join(forms, " or ")
	case formText:
		if s.enum != nil {
			return "`" + strings.Join(s.enum, "`, `") + "`"
		}
	case formBoolean:
		return "true or false"
	case formScalar:
		return "text, number or boolean"
	case formInteger, formNumber:
		if s.min == s.max {
			return fmt.Sprintf("`%v`", s.min)
		}
		if span := s.span(); span != "" {
			return string(s.form) + " " + span
		}
	}
	return string(s.form)
}

func cellText(s string) string {
	return strings.ReplaceAll(s, "|", `\|`)
}

func sentence(s string) string {
	return cellText(strings.ToUpper(s[:1])+s[1:]) + "."
}
