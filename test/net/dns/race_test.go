//go:build race

package dns_test

// underRace tells that this binary has the race detector, which takes many times the memory.
const underRace = true
