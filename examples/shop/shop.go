package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/google/uuid"
)

// customers is how many there are; they have the numbers from 0 on.
const customers = 10000

// shop is the service and what it counts.
type shop struct {
	mux    *http.ServeMux
	quotes counter
	orders counter
}

// counter counts what went well and what did not.
type counter struct{ good, bad atomic.Int64 }

// answer is what customers get.
type answer struct {
	Version  string `json:"version"`
	Customer int    `json:"customer"`
	Cents    int    `json:"cents"`
	Order    string `json:"order,omitempty"`
}

func newShop() *shop {
	s := &shop{mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /{$}", s.page)
	s.mux.HandleFunc("GET /price", s.price)
	s.mux.HandleFunc("POST /orders", s.order)
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return s
}

// ServeHTTP says with every answer which version gave it.
func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Shop-Version", version)
	s.mux.ServeHTTP(w, r)
}

func (s *shop) page(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "shop %s: %s\n", version, slogan)
}

func (s *shop) price(w http.ResponseWriter, r *http.Request) {
	s.quote(w, r, &s.quotes, http.StatusOK, "")
}

func (s *shop) order(w http.ResponseWriter, r *http.Request) {
	s.quote(w, r, &s.orders, http.StatusCreated, uuid.NewString())
}

// quote answers with the price of the customer that the request names.
func (s *shop) quote(w http.ResponseWriter, r *http.Request, c *counter, status int, order string) {
	customer, err := strconv.Atoi(r.FormValue("customer"))
	if err != nil || customer < 0 || customer >= customers {
		http.Error(w, fmt.Sprintf("customer must be a number from 0 to %d", customers-1), http.StatusBadRequest)
		return
	}
	cents, err := price(customer)
	if err != nil {
		c.bad.Add(1)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	c.good.Add(1)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer{Version: version, Customer: customer, Cents: cents, Order: order}) // the customer may have gone
}

// metrics answers in Prometheus' text format.
func (s *shop) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, m := range []struct {
		name, help string
		c          *counter
	}{
		{"shop_quotes_total", "Prices that were asked for.", &s.quotes},
		{"shop_orders_total", "Orders that were placed.", &s.orders},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s counter\n", m.name, m.help, m.name)
		fmt.Fprintf(w, "%s{outcome=\"good\"} %d\n%s{outcome=\"bad\"} %d\n", m.name, m.c.good.Load(), m.name, m.c.bad.Load())
	}
}
