package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// regular is a customer like most.
const regular = customers - 1

func ask(t *testing.T, h http.Handler, method, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	if got := w.Header().Get("Shop-Version"); got != version {
		t.Errorf("%s %s: answered by version %q, want %q", method, target, got, version)
	}
	return w
}

func TestPriceIsQuoted(t *testing.T) {
	w := ask(t, newShop(), "GET", "/price?customer=9999")
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusOK {
		t.Fatalf("answered %d %q: %v", w.Code, w.Body, err)
	}
	want, err := price(regular)
	if err != nil {
		t.Fatal(err)
	}
	if a.Cents != want || a.Customer != regular || a.Version != version || a.Order != "" {
		t.Errorf("answer %+v, want %d cents for customer %d from %s", a, want, regular, version)
	}
}

func TestEveryOrderHasItsOwnNumber(t *testing.T) {
	s, seen := newShop(), map[string]bool{}
	for range 100 {
		w := ask(t, s, "POST", "/orders?customer=9999")
		var a answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusCreated {
			t.Fatalf("answered %d %q: %v", w.Code, w.Body, err)
		}
		if a.Order == "" || seen[a.Order] {
			t.Fatalf("order number %q is empty or not new", a.Order)
		}
		seen[a.Order] = true
	}
}

func TestUnknownCustomersAreTold(t *testing.T) {
	for _, who := range []string{"", "alice", "-1", "10000", "99999999999999999999"} {
		if w := ask(t, newShop(), "GET", "/price?customer="+who); w.Code != http.StatusBadRequest {
			t.Errorf("customer %q: answered %d, want 400", who, w.Code)
		}
	}
}

func TestMetricsCount(t *testing.T) {
	s := newShop()
	ask(t, s, "GET", "/price?customer=9999")
	ask(t, s, "GET", "/price?customer=9999")
	ask(t, s, "POST", "/orders?customer=9999")
	body := ask(t, s, "GET", "/metrics").Body.String()
	for _, line := range []string{
		`shop_quotes_total{outcome="good"} 2`, `shop_quotes_total{outcome="bad"} 0`, `shop_orders_total{outcome="good"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("metrics lack %s:\n%s", line, body)
		}
	}
}

func TestHealthAndPage(t *testing.T) {
	if w := ask(t, newShop(), "GET", "/healthz"); w.Code != http.StatusOK {
		t.Errorf("/healthz answered %d", w.Code)
	}
	if w := ask(t, newShop(), "GET", "/"); !strings.Contains(w.Body.String(), slogan) {
		t.Errorf("the page %q lacks %q", w.Body, slogan)
	}
	if w := ask(t, newShop(), "GET", "/nowhere"); w.Code != http.StatusNotFound {
		t.Errorf("/nowhere answered %d", w.Code)
	}
}
