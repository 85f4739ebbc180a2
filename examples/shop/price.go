package main

const (
	version = "v1"
	slogan  = "one teapot, one price"
)

// teapot is the list price in cents.
const teapot = 1990

// price is what a customer pays, in cents.
func price(customer int) (int, error) {
	return teapot, nil
}
