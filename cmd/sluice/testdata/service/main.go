// Command service is what the scripts release: it answers with the content of the
// file version beside it, and with 500 where that says bad.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	b, err := os.ReadFile("version")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	version := strings.TrimSpace(string(b))
	http.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		if strings.Contains(version, "bad") {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintln(w, version)
	})
	s := http.Server{Addr: net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), ReadHeaderTimeout: 5 * time.Second}
	fmt.Fprintln(os.Stderr, s.ListenAndServe())
	os.Exit(1)
}
