package check

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client follows no redirect: a check says which status it wants. Each check has
// a connection of its own, as a new user would.
var client = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives: true, Proxy: nil,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// http makes one request.
func (r *Runner) http(ctx context.Context, q Request) (Outcome, error) {
	k := q.Check.HTTP
	ctx, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	var out Outcome
	say := func(format string, args ...any) (Outcome, error) {
		out.Reason = fmt.Sprintf(format, args...)
		out.Output = append(out.Output, out.Reason+"\n"...)
		return out, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.url()+k.Path, nil)
	if err != nil {
		return say("the request can't be made: %v", err)
	}
	req.Header.Set("User-Agent", "sluice-check")
	began := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return say("GET %s was not answered: %v", k.Path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	hide := q.hide
	if err != nil || len(body) == maxBody {
		hide = q.hideIn
	}
	shown := hide(string(body))
	out.Output = fmt.Appendf(nil, "GET %s%s\n%s %s in %s, %d bytes of body\n\n%s\n", q.url(), k.Path, res.Proto, res.Status,
		time.Since(began).Round(time.Millisecond), len(body), printable(shown[:min(len(shown), keptBody)]))
	switch {
	case err != nil:
		return say("GET %s was answered in part: %v", k.Path, err)
	case res.StatusCode != k.Status:
		return say("GET %s answered %d, wanted %d", k.Path, res.StatusCode, k.Status)
	case k.Contains != "" && !bytes.Contains(body, []byte(k.Contains)):
		return say("GET %s answered without %q", k.Path, k.Contains)
	}
	out.OK = true
	return out, nil
}

// printable keeps text as it is and says so of anything else.
func printable(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		return "(not text)"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
