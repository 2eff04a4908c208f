package profiles

import "fmt"

// ParseSize reads a size in the words of a profile ("128M", "1G"; M is MiB) and returns bytes.
func ParseSize(text string) (int64, error) {
	n, ok := parseSize(text)
	if !ok || n == 0 {
		return 0, fmt.Errorf("%q is no size: write a number and M, G or T, such as 256M", text)
	}
	return n, nil
}
