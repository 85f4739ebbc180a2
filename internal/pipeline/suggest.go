package pipeline

import (
	"slices"
	"strings"
)

// nearest returns the one of known that s was probably meant to be, or "".
// A name is near when less than about a third of it has to be changed.
func nearest(s string, known []string) string {
	if len(s) > 64 {
		return ""
	}
	best, least := "", 1+max(1, len(s)/3)
	for _, k := range known {
		if strings.EqualFold(k, s) || squeeze(k) == squeeze(s) {
			return k
		}
		if d := distance(s, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// squeeze ignores what people mix up: case, hyphens, underscores, a plural s.
func squeeze(s string) string {
	return strings.TrimSuffix(joints.Replace(strings.ToLower(s)), "s")
}

var joints = strings.NewReplacer("-", "", "_", "", " ", "")

// distance is the number of characters to insert, delete, change or swap with
// their neighbour (optimal string alignment).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, prev, cur := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(x); i++ {
		cur[0] = i
		for j := 1; j <= len(y); j++ {
			change := 1
			if x[i-1] == y[j-1] {
				change = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(y)]
}

// didYouMean returns a mend that proposes the nearest of known, or lists them.
func didYouMean(s string, known []string) string {
	if n := nearest(s, known); n != "" {
		return "did you mean " + n + "?"
	}
	sorted := slices.Clone(known)
	return "it can be " + listing(sorted, "or")
}

// listing joins words for a sentence.
func listing(words []string, last string) string {
	switch len(words) {
	case 0:
		return "nothing"
	case 1:
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}
