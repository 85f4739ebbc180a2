package cli

import "testing"

// What is typed wrong is answered in the words of the person who typed it.
func TestWhatIsTypedWrongIsNamed(t *testing.T) {
	f := newFake(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"rollback"}, "sluice rollback needs SERVICE"},
		{[]string{"logs"}, "sluice logs needs RUN [STEP]"},
		{[]string{"approve", "1", "2", "--env", "production"}, "sluice approve takes RUN, and there are 2 arguments"},
		{[]string{"runs", "extra"}, `sluice runs takes no argument, and "extra" is one`},
		{[]string{"evidence", "verify"}, "sluice evidence verify needs FILE"},
		{[]string{"evidence", "verify", "nofile"}, "sluice evidence export -o FILE writes one"},
		{[]string{"plan", "--rps", "abc"}, `invalid argument "abc" for "--rps" flag: it is a number; see`},
		{[]string{"completion", "foo"}, "say which shell"},
		{[]string{"runs", "--server", "localhost:99", "--token", "x"}, "is no URL: give one like http://127.0.0.1:8711"},
		{[]string{"run", "--repo", t.TempDir()}, "go to your service's repository"},
	} {
		f.run(c.args...).want(t, int(Usage), c.says)
	}
}
