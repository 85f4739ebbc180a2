package webui

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/run"
)

// shownLog bounds what a page shows of a log, in bytes: its end. The whole log
// is one link away.
const shownLog = 256 << 10

// maxLog bounds what is read of a log, in bytes; the runner keeps less.
const maxLog = 64 << 20

// logView is the page of a build step.
type logView struct {
	page
	S    control.Status
	Step run.Step
	Risk string
	Text string
	Cut  int64 // bytes before Text that are not shown
	Done bool
}

func (u *ui) step(w http.ResponseWriter, r *http.Request) error {
	id, name := r.PathValue("run"), r.PathValue("step")
	l, err := u.feed(r, id)
	if err != nil {
		return err
	}
	l.Get = stepURL(id, name)
	s, err := u.c.Status(r.Context(), project, id, false)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.Steps, func(x run.Step) bool { return x.Name == name })
	if i < 0 {
		return errNowhere
	}
	v := &logView{page: u.page(r, name+" · run "+id), S: s, Step: s.Steps[i], Risk: pipeline.StageRisk(pipeline.Kind(s.Steps[i].Kind))}
	v.Here = "runs"
	var text strings.Builder
	v.Done, err = u.readLog(r, id, name, func(chunk string) error {
		text.WriteString(chunk)
		if text.Len() > 4*shownLog {
			rest := text.String()
			rest = rest[len(rest)-shownLog:]
			v.Cut += int64(text.Len() - len(rest))
			text.Reset()
			text.WriteString(rest)
		}
		return nil
	})
	if err != nil {
		return err
	}
	v.Text = text.String()
	if over := len(v.Text) - shownLog; over > 0 {
		v.Cut, v.Text = v.Cut+int64(over), v.Text[over:]
	}
	if v.Cut > 0 { // from the beginning of a line
		if _, rest, ok := strings.Cut(v.Text, "\n"); ok {
			v.Cut, v.Text = v.Cut+int64(len(v.Text)-len(rest)), rest
		}
	}
	v.Text = plainText(v.Text)
	if v.Done {
		l.Plain = 0
	} else {
		l.Poll = time.Second // lines are no events
	}
	v.Live, v.Title = l, stepMark(v.Step.State).Word+" · "+v.Title
	u.show(w, r, http.StatusOK, v.page, logContent(v))
	return nil
}

// readLog hands a log over, piece by piece, and reports whether it has ended.
func (u *ui) readLog(r *http.Request, id, step string, take func(string) error) (bool, error) {
	for offset := int64(0); offset < maxLog; {
		l, err := u.c.Log(r.Context(), project, id, step, offset)
		if err != nil {
			return false, err
		}
		if err := take(l.Text); err != nil {
			return false, err
		}
		if l.Done || l.Next <= offset {
			return l.Done, nil
		}
		offset = l.Next
	}
	return true, nil
}

// rawLog is the whole log as plain text.
func (u *ui) rawLog(w http.ResponseWriter, r *http.Request) error {
	id, name := r.PathValue("run"), r.PathValue("step")
	started := false
	_, err := u.readLog(r, id, name, func(chunk string) error {
		if !started {
			started = true
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Content-Disposition", fmt.Sprintf("inline; filename=%q", "run-"+safeName(id)+"-"+safeName(name)+".log"))
		}
		_, err := w.Write([]byte(chunk))
		return err
	})
	if started {
		return nil // what was sent can't be taken back
	}
	return err
}

func safeName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, s)
}

// plainText is what a terminal would have shown, without colours: escape
// sequences are taken out, and control characters made visible. A carriage
// return overwrites its line, as progress bars do.
func plainText(s string) string {
	out := make([]byte, 0, len(s))
	line := 0 // where the current line begins in out
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\n':
			out = append(out, '\n')
			line = len(out)
			i++
		case c == '\r':
			i++
			if i < len(s) && s[i] != '\n' && s[i] != '\r' {
				out = out[:line]
			}
		case c == 0x1b:
			i += escapeLen(s[i:])
		case c == '\t' || c >= 0x20 && c < 0x7f:
			out = append(out, c)
			i++
		case c < utf8.RuneSelf:
			out = append(out, visible(rune(c))...)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Cc, r) {
				out = append(out, visible(r)...) // such as those that turn the text around
			} else {
				out = utf8.AppendRune(out, r)
			}
			i += n
		}
	}
	return string(out)
}

// visible writes a character that can't be seen as \x07 or \u202e.
func visible(r rune) string { return strings.Trim(strconv.QuoteRuneToASCII(r), "'") }

// escapeLen is the length of the escape sequence that s begins with (ECMA-48).
func escapeLen(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // parameters, then one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x7e {
				return i
			}
		}
		return len(s)
	case ']', 'P', '_', '^': // a string, ended by BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
			if s[i] == '\n' {
				return i
			}
		}
		return len(s)
	}
	i := 1
	for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f {
		i++
	}
	if i < len(s) && s[i] >= 0x30 && s[i] <= 0x7e {
		i++
	}
	return i
}
