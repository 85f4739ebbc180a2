package pipeline

// keyHomes returns the paths of objects that have a key, for hints.
func keyHomes() map[string][]string {
	homes := map[string][]string{}
	walk(&model.shape, "", func(path string, k keyShape) {
		if k.refusal == nil {
			at := path
			if at == "" {
				at = "the top of the file"
			}
			homes[k.key] = append(homes[k.key], at)
		}
	})
	return homes
}

// walk visits every key of a shape, with the path of the object that holds it:
// lists as name[], free keys as name.*.
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
