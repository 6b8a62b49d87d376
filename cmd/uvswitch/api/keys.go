package api

import (
	"regexp"
	"strings"
)

// InKeys returns err with the names of options, such as --nd-proxy, written as the keys of the API, of the configuration file and of a CNI
// configuration: ndProxy. Commands, which stand between backquotes, stay as they are. err may be nil.
func InKeys(err error) error {
	if err == nil {
		return nil
	}
	return inKeys{err}
}

type inKeys struct{ error }

func (e inKeys) Unwrap() error { return e.error }

func (e inKeys) Error() string {
	parts := strings.Split(e.error.Error(), "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = optionNames.ReplaceAllStringFunc(parts[i], keyOf)
	}
	return strings.Join(parts, "`")
}

var optionNames = regexp.MustCompile(`--[a-z][a-z0-9]+(-[a-z0-9]+)*`)

// keyOf returns the key of an option: ndProxy of --nd-proxy.
func keyOf(option string) string {
	words := strings.Split(option[len("--"):], "-")
	for i, w := range words[1:] {
		words[1+i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}
