package api

import "strings"

// IsDNSName reports whether a name, in lower case, can be one of DNS (RFC 1035, 2.3.4): each part between two dots has 1 to 63 letters, digits,
// hyphens or underscores, and no hyphen at its ends.
func IsDNSName(name string) bool {
	if name == "" || len(name) > 200 {
		return false
	}
	for _, label := range strings.Split(name, ".") {
		isBad := func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, isBad) || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return true
}
