package analysis

// Spread measures over-dispersion by an A/A split: how much more the error
// counts of the stable version's hash buckets scatter around each other, bin by
// bin, than independent errors would. It is a sum over bins, and may be stored.
type Spread struct {
	Chi2 float64 `json:"chi2"`
	DF   float64 `json:"df"`
	Bad  int64   `json:"bad"`
}

const (
	spreadBad = 30 // below this many bad events nothing is measured
	spreadDF  = 30
)

// Add takes one bin: for each hash bucket of the stable version {bad, all}.
func (s *Spread) Add(buckets [][2]int64) {
	var all Bin
	used := 0.0
	for _, b := range buckets {
		if b[0] < 0 || b[1] <= 0 {
			continue
		}
		all = all.plus(Bin{KC: min(b[0], b[1]), NC: b[1]})
		used++
	}
	if used < 2 || all.KC == 0 || all.KC == all.NC {
		return // nothing can scatter
	}
	p := share(all.KC, all.NC)
	for _, b := range buckets {
		if b[0] < 0 || b[1] <= 0 {
			continue
		}
		n := float64(b[1])
		d := float64(min(b[0], b[1])) - n*p
		s.Chi2 += d * d / (n * p * (1 - p))
	}
	s.DF += used - 1
	s.Bad = satAdd(s.Bad, all.KC)
}

// SpreadOf is the spread of one bin.
func SpreadOf(buckets [][2]int64) Spread {
	var s Spread
	s.Add(buckets)
	return s
}

// Join adds what was measured elsewhere, or in another bin.
func (s *Spread) Join(o Spread) {
	if !(o.Chi2 >= 0) || !(o.DF >= 0) || o.Bad < 0 {
		return
	}
	s.Chi2, s.DF, s.Bad = finite(s.Chi2+o.Chi2), finite(s.DF+o.DF), satAdd(s.Bad, o.Bad)
}

// Phi is max(1, Pearson χ²/df), for Settings.Phi; 0 while too few bad events
// were seen to tell.
func (s Spread) Phi() float64 {
	if s.Bad < spreadBad || s.DF < spreadDF {
		return 0
	}
	return min(1e6, max(1, finite(s.Chi2/s.DF)))
}
