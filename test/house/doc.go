// Package house holds the tests of the house itself: which package may know which other, what may be linked into the
// programs of a guest, what the top level holds, and the habits every file keeps. A wall that no test guards is gone
// within a year.
//
// What it deliberately does not do: judge what code does (every package's own tests do), or repeat what gofmt, vet and
// staticcheck find (make lint).
package house
