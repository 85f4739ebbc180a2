package pipeline

// Overlay reads the keys of an analysis from YAML and lays them over another:
// what src does not say stays as it is in base. It is how recorded rollouts are
// judged again under other settings; nothing but the keys themselves is checked.
func Overlay(base Analysis, file string, src []byte, opts ...Option) (Analysis, Problems) {
	p := &parser{file: file, positions: Positions{}, homes: func() map[string][]string { return nil }, bad: map[string]bool{}, seen: map[Problem]bool{}}
	for _, o := range opts {
		o(p)
	}
	root := p.load(src)
	if root == nil {
		return base, p.finish()
	}
	out, _ := object("analysis", base, analysisKeys...).read(p, root, "")
	return out, p.finish()
}
